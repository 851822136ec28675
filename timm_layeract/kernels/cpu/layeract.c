/* The CPU kernels' entry points, which cpu/__init__.py calls. Plain C with OpenMP; no torch, no Python.
 *
 * LayerAct takes each sample through its passes while it is in the cache. BatchNorm needs the whole batch between passes.
 * All return how many shares of the work failed for want of memory.
 */
#include "passes.h"

/* The coefficients of a sample for LayerAct alone: its mean in two floats, and its inverse deviation. */
static Sample layer_sample(const double *stats) {
    const float M = (float)stats[0];
    return (Sample){.M = M, .offset = (float)(M - stats[0]), .rho = (float)stats[1]};
}

/* LayerAct forward: y, and for each sample its mean and inverse deviation in stats (samples, 2). */
int layer_act_forward(int hard, int bf16, const void *x, void *y, double *stats, double *scratch, const float *w,
                      const float *b, int64_t samples, int64_t channels, int64_t positions, int channels_last,
                      double alpha, int threads) {
    Job job = {STATS, {LAYER, hard, bf16}, {samples, channels, positions, channels_last, threads},
               {.x = x, .y = y}, {.w = w, .b = b}, scratch};
    int within, failed = 0;
    int over UNUSED = split_threads(&job.shape, &within);
#pragma omp parallel for num_threads(over) if (over > 1) reduction(+ : failed)
    for (int64_t n = 0; n < samples; n++) {
        Job own = job;
        Sample sample = {0};
        failed += pass_sample(&own, &sample, n, within);
        const double *means = scratch + n * channels, *squares = means + samples * channels;
        double mean = 0.0, variance = 0.0;
        for (int64_t c = 0; c < channels; c++) mean += means[c];
        mean /= (double)channels;
        for (int64_t c = 0; c < channels; c++)
            variance += squares[c] + (double)positions * (means[c] - mean) * (means[c] - mean);
        variance /= (double)(channels * positions);
        stats[2 * n] = mean;
        stats[2 * n + 1] = 1.0 / __builtin_sqrt(variance + alpha);
        sample = layer_sample(stats + 2 * n);
        own.pass = VALUE;
        failed += pass_sample(&own, &sample, n, within);
    }
    return failed;
}

/* LayerAct backward: dx; sums (QUANTITIES, samples, channels) begins with sum h and sum h (x - mean). */
int layer_act_backward(int hard, int bf16, const void *x, const void *g, void *dx, const double *stats, double *sums,
                       const float *w, const float *b, int64_t samples, int64_t channels, int64_t positions,
                       int channels_last, int threads) {
    Job job = {SUMS, {LAYER, hard, bf16}, {samples, channels, positions, channels_last, threads},
               {.x = x, .g = g, .y = dx}, {.w = w, .b = b}, sums};
    int within, failed = 0;
    int over UNUSED = split_threads(&job.shape, &within);
#pragma omp parallel for num_threads(over) if (over > 1) reduction(+ : failed)
    for (int64_t n = 0; n < samples; n++) {
        Job own = job;
        const double rho = stats[2 * n + 1];
        Sample sample = layer_sample(stats + 2 * n);
        failed += pass_sample(&own, &sample, n, within);
        const double *h = sums + n * channels, *hz = h + samples * channels;
        double shift = 0.0, slope = 0.0;
        for (int64_t c = 0; c < channels; c++) {
            shift += (w ? w[c] : 1.0) * h[c];
            slope += (w ? w[c] : 1.0) * hz[c];
        }
        const double size = (double)(channels * positions);
        sample.shift = (float)(shift / size);
        sample.slope = (float)(rho * rho * slope / size);
        own.pass = GRADIENT;
        failed += pass_sample(&own, &sample, n, within);
    }
    return failed;
}

/* One pass of BatchNorm (+ residual if r) + LayerAct. channels_in: (ROWS, channels), in the order of Channels; samples_in:
 * (4, samples), mu, rho, shift, slope. Which of the arrays a pass reads follows from its formula. */
int norm_act_pass(int pass, int hard, int bf16, const void *x, const void *r, const void *g, void *y, void *dr,
                  const float *channels_in, const float *samples_in, double *out, int64_t samples, int64_t channels,
                  int64_t positions, int channels_last, int threads) {
    const float *ch = channels_in;
    Channels arrays = {0};
    if (ch)
        arrays = (Channels){ch,
                            ch + channels,
                            ch + 2 * channels,
                            ch + 3 * channels,
                            ch + 4 * channels,
                            ch + 5 * channels,
                            ch + 6 * channels,
                            ch + 7 * channels,
                            ch + 8 * channels,
                            ch + 9 * channels,
                            ch + 10 * channels};
    Job job = {pass,   {r ? NORM_ADD : NORM, hard, bf16}, {samples, channels, positions, channels_last, threads},
               {x, r, g, y, dr}, arrays, out};
    int within, failed = 0;
    int over UNUSED = split_threads(&job.shape, &within);
#pragma omp parallel for num_threads(over) if (over > 1) reduction(+ : failed)
    for (int64_t n = 0; n < samples; n++) {
        Sample sample = {0};
        if (samples_in)
            sample = (Sample){.mu = samples_in[n],
                              .rho = samples_in[samples + n],
                              .shift = samples_in[2 * samples + n],
                              .slope = samples_in[3 * samples + n]};
        failed += pass_sample(&job, &sample, n, within);
    }
    return failed;
}

/* The reductions between the passes, as kernels/reductions.py derives them. */

/* Mean and centred squares over the batch: of each (channels), from those of each (sample, channel). */
static void batch_statistics(const double *mean, const double *squares, double *centre, double *spread, int64_t samples,
                             int64_t channels, int64_t positions) {
    for (int64_t c = 0; c < channels; c++) centre[c] = spread[c] = 0.0;
    for (int64_t n = 0; n < samples; n++)
        for (int64_t c = 0; c < channels; c++) centre[c] += mean[n * channels + c];
    for (int64_t c = 0; c < channels; c++) centre[c] /= (double)samples;
    for (int64_t n = 0; n < samples; n++)
        for (int64_t c = 0; c < channels; c++) {
            const double from = mean[n * channels + c] - centre[c];
            spread[c] += squares[n * channels + c] + (double)positions * from * from;
        }
}

/* Statistics of the layer of sample n, and what backward keeps of it: kept (2 or 5, samples, channels). */
INLINE void layer_statistics(int residual, const double *stats, const float *const row[ROWS], Sample *sample,
                             float *kept, int64_t n, int64_t all, int64_t channels, double positions, double alpha) {
    const double *m = stats + n * channels, *q = m + all, *k = q + all, *q_r = k + all, *q_xr = q_r + all;
    const float *M = row[0], *A = row[1], *B = row[2], *K = row[3], *R = row[4];
    kept += n * channels;
    double sum = 0.0, sum_squares = 0.0, squares = 0.0;
#pragma omp simd reduction(+ : sum, sum_squares, squares)
    for (int64_t c = 0; c < channels; c++) {
        const double a = A[c], b = R[c], offset = m[c] - M[c];
        double z = a * offset + B[c], of_z = a * a * q[c];
        kept[c] = (float)offset;
        kept[all + c] = (float)q[c];
        if (residual) {
            const double r_offset = k[c] - K[c];
            z += b * r_offset;
            of_z += 2 * a * b * q_xr[c] + b * b * q_r[c];
            kept[2 * all + c] = (float)r_offset;
            kept[3 * all + c] = (float)q_r[c];
            kept[4 * all + c] = (float)q_xr[c];
        }
        sum += z;
        sum_squares += z * z;
        squares += of_z;
    }
    const double mu = sum / (double)channels, spread = sum_squares - mu * sum;
    sample->mu = (float)mu;
    sample->rho = (float)(1.0 / __builtin_sqrt((squares / positions + spread) / (double)channels + alpha));
}

/* Sums of dz, of dz (x - M) and dz (r - K) over the batch, for channels [from, to): totals (3, channels). Also those of
 * the gradients of the activation's w and b, (5, channels) in all. */
INLINE void total_sums(int residual, const double *sums, const float *kept, const float *const row[ROWS],
                       const float *samples_in, double *totals, int64_t samples, int64_t channels, double P,
                       int64_t from, int64_t to) {
    const int64_t all = samples * channels;
    const float *A = row[1], *B = row[2], *R = row[4];
    for (int quantity = 0; quantity < 5; quantity++)
        for (int64_t c = from; c < to; c++) totals[quantity * channels + c] = 0.0;
    for (int64_t n = 0; n < samples; n++) {
        const double *h = sums + n * channels, *hz = h + all, *u = hz + all, *ux = u + all, *ur = ux + all;
        const float *offsets = kept + n * channels;
        const double mu = samples_in[n], rho = samples_in[samples + n];
        const double shift = rho * samples_in[2 * samples + n], slope = rho * samples_in[3 * samples + n];
#pragma omp simd
        for (int64_t c = from; c < to; c++) {
            const double a = A[c], offset = offsets[c];
            double z = a * offset + B[c] - mu, zx = a * offsets[all + c];
            if (residual) {
                const double b = R[c], r_offset = offsets[2 * all + c], q_r = offsets[3 * all + c],
                             q_xr = offsets[4 * all + c];
                z += b * r_offset;
                zx += b * q_xr;
                totals[2 * channels + c] +=
                    ur[c] - shift * P * r_offset - slope * (a * q_xr + b * q_r + P * z * r_offset);
            }
            totals[c] += u[c] - P * (shift + slope * z);
            totals[channels + c] += ux[c] - shift * P * offset - slope * (zx + P * z * offset);
            totals[3 * channels + c] += rho * hz[c];
            totals[4 * channels + c] += h[c];
        }
    }
}

/* A BatchNorm, as kernels/batch_norm.py describes it. */
typedef struct {
    const float *weight, *bias;
    float *mean, *var;
    int training;
    double momentum, eps;
} Norm;

/* What forward keeps of a BatchNorm for backward: 1 / deviation, and what rounding its mean to float left. */
typedef struct {
    double *inverse, *remainder;
} Kept;

/* Coefficients of a BatchNorm from mean and centred squares of the batch; updates its running statistics. */
static void normalize(const Norm *norm, const double *mean, const double *squares, double count, int64_t channels,
                      float *centre, float *gain, float *shift, Kept kept) {
    for (int64_t c = 0; c < channels; c++) {
        double m = mean[c], variance = squares[c] / count;
        if (!norm->training) {
            m = norm->mean[c];
            variance = norm->var[c];
        } else if (norm->mean) {
            norm->mean[c] += (float)(norm->momentum * (m - norm->mean[c]));
            norm->var[c] += (float)(norm->momentum * (squares[c] / (count - 1.0) - norm->var[c]));
        }
        const double inverse = 1.0 / __builtin_sqrt(variance + norm->eps);
        const double a = norm->weight ? inverse * norm->weight[c] : inverse;
        centre[c] = (float)m;
        gain[c] = (float)a;
        kept.inverse[c] = inverse;
        kept.remainder[c] = m - centre[c];
        shift[c] += (float)((norm->bias ? norm->bias[c] : 0.0) - a * kept.remainder[c]);
    }
}

/* The batch statistics' share in the gradient of x, and the gradient of gamma. */
static void through_batch(const Norm *norm, const double *dz, const double *dz_x, double count, int64_t channels,
                          Kept kept, float *shift, float *slope, float *dweight) {
    for (int64_t c = 0; c < channels; c++) {
        const double around_mean = dz_x[c] - kept.remainder[c] * dz[c];
        const double of_x = kept.inverse[c] * kept.inverse[c] * around_mean / count;
        shift[c] = norm->training ? (float)(dz[c] / count - of_x * kept.remainder[c]) : 0.0f;
        slope[c] = norm->training ? (float)of_x : 0.0f;
        if (dweight) dweight[c] = (float)(kept.inverse[c] * around_mean);
    }
}

/* Forward: y and, for backward, channels_out (ROWS, channels), samples_out (4, samples), kept (2 or 5, samples,
 * channels), norms (4, channels). work: (QUANTITIES * samples + 4, channels). */
int norm_act_forward(int hard, int bf16, const void *x, const void *r, void *y, const Norm *own, const Norm *other,
                     const float *w, const float *b, float *channels_out, float *samples_out, float *kept,
                     double *norms, double *work, int64_t samples, int64_t channels, int64_t positions,
                     int channels_last, double alpha, int threads) {
    const double count = (double)samples * (double)positions;
    double *batch = work + QUANTITIES * samples * channels;
    float *row[ROWS];
    for (int i = 0; i < ROWS; i++) row[i] = channels_out + i * channels;
    int failed = norm_act_pass(STATS, hard, bf16, x, r, 0, 0, 0, 0, 0, work, samples, channels, positions,
                               channels_last, threads);
    const int64_t all = samples * channels;
    for (int of_r = 0; of_r < (other ? 2 : 1); of_r++)
        batch_statistics(work + 2 * of_r * all, work + (2 * of_r + 1) * all, batch + 2 * of_r * channels,
                         batch + (2 * of_r + 1) * channels, samples, channels, positions);
    for (int64_t c = 0; c < channels; c++) {
        row[2][c] = row[3][c] = 0.0f;
        row[4][c] = 1.0f;
        row[5][c] = w ? w[c] : 1.0f;
        row[6][c] = b ? b[c] : 0.0f;
    }
    normalize(own, batch, batch + channels, count, channels, row[0], row[1], row[2], (Kept){norms, norms + channels});
    if (other)
        normalize(other, batch + 2 * channels, batch + 3 * channels, count, channels, row[3], row[4], row[2],
                  (Kept){norms + 2 * channels, norms + 3 * channels});
    const float *const *const of_channel = (const float *const *)row;
    const double P = (double)positions;
#pragma omp parallel for num_threads(threads) if (threads > 1 && all > 4096)
    for (int64_t n = 0; n < samples; n++) {
        Sample sample;
        if (r)
            layer_statistics(1, work, of_channel, &sample, kept, n, all, channels, P, alpha);
        else
            layer_statistics(0, work, of_channel, &sample, kept, n, all, channels, P, alpha);
        samples_out[n] = sample.mu;
        samples_out[samples + n] = sample.rho;
    }
    return failed + norm_act_pass(VALUE, hard, bf16, x, r, 0, y, 0, channels_out, samples_out, 0, samples, channels,
                                  positions, channels_last, threads);
}

/* Backward: dx, dr, and the parameters' gradients where asked for: dweight, dr_weight, dbias, dw, db, each (channels) or
 * NULL. channels_io and samples_io are forward's, whose last rows it fills in; the same again if it is run again. */
int norm_act_backward(int hard, int bf16, const void *x, const void *r, const void *g, void *dx, void *dr,
                      const Norm *own, const Norm *other, float *channels_io, float *samples_io, const float *kept,
                      double *norms, double *work, float *dweight, float *dr_weight, float *dbias, float *dw,
                      float *db, int64_t samples, int64_t channels, int64_t positions, int channels_last, int threads) {
    const double count = (double)samples * (double)positions;
    double *totals = work + QUANTITIES * samples * channels;
    float *row[ROWS];
    for (int i = 0; i < ROWS; i++) row[i] = channels_io + i * channels;
    int failed = norm_act_pass(SUMS, hard, bf16, x, r, g, dx, 0, channels_io, samples_io, work, samples, channels,
                               positions, channels_last, threads);
    const int64_t all = samples * channels, share = (channels + threads - 1) / threads;
    const double P = (double)positions, size = P * (double)channels;
    for (int64_t n = 0; n < samples; n++) {
        const double *h = work + n * channels, *hz = h + all, rho = samples_io[samples + n];
        double shift = 0.0, slope = 0.0;
#pragma omp simd reduction(+ : shift, slope)
        for (int64_t c = 0; c < channels; c++) {
            shift += row[5][c] * h[c];
            slope += row[5][c] * hz[c];
        }
        samples_io[2 * samples + n] = (float)(shift / size);
        samples_io[3 * samples + n] = (float)(rho * rho * slope / size);
    }
#pragma omp parallel for num_threads(threads) if (threads > 1 && all > 4096)
    for (int64_t from = 0; from < channels; from += share) {
        const int64_t to = from + share < channels ? from + share : channels;
        const float *const *const of_channel = (const float *const *)row;
        if (r)
            total_sums(1, work, kept, of_channel, samples_io, totals, samples, channels, P, from, to);
        else
            total_sums(0, work, kept, of_channel, samples_io, totals, samples, channels, P, from, to);
    }
    const double *dz = totals, *dz_x = dz + channels, *dz_r = dz_x + channels;
    through_batch(own, dz, dz_x, count, channels, (Kept){norms, norms + channels}, row[7], row[8], dweight);
    for (int64_t c = 0; c < channels; c++) row[9][c] = row[10][c] = 0.0f;
    if (other)
        through_batch(other, dz, dz_r, count, channels, (Kept){norms + 2 * channels, norms + 3 * channels}, row[9],
                      row[10], dr_weight);
    for (int64_t c = 0; c < channels; c++) {
        if (dbias) dbias[c] = (float)dz[c];
        if (dw) dw[c] = (float)totals[3 * channels + c];
        if (db) db[c] = (float)totals[4 * channels + c];
    }
    return failed + norm_act_pass(GRADIENT, hard, bf16, x, r, 0, dx, dr, channels_io, samples_io, 0, samples, channels,
                                  positions, channels_last, threads);
}
