/* LayerAct, and BatchNorm (+ residual) + LayerAct, as passes over memory. Plain C with OpenMP; no torch, no Python.
 *
 * Notation, for sample n, channel c and position p (see kernels/batch_norm.py for the derivation):
 *
 *     z = x                                        LAYER: LayerAct alone
 *     z = A (x - M) + B                            NORM: after a BatchNorm, A = gamma / deviation, B = beta
 *     z = A (x - M) + R (r - K) + B                NORM_ADD: and a residual r (with a BatchNorm of its own, or R = 1, K = 0)
 *     y = z s(t),   t = w rho (z - mu) + b         mu, rho: mean and inverse deviation of the sample; w, b: affine LayerAct
 *
 * Four passes: STATS (mean and centred squares of each row), VALUE (y), SUMS (what the gradient needs to know of all
 * positions) and GRADIENT. A pass walks over *strips*. In contiguous memory a strip is one row: the P positions of an
 * (n, c). In channels-last memory it is 16 neighbouring channels at all positions. Either way it is a sequence of
 * 16-float vectors, and its coefficients are vectors: one number 16 times over, or 16 channels' numbers.
 * Sums run in float32 over at most BLOCK vectors, then in float64.
 */
#include "vector.h"

#include <stdlib.h>

#define BLOCK 32
#define QUANTITIES 5
/* Of coefficients for each channel: the members of Channels. */
#define ROWS 11
/* Elements of a sample of which several tensors stay in the second-level cache. */
#define SMALL 65536

typedef enum { STATS, VALUE, SUMS, GRADIENT } Pass;
typedef enum { LAYER, NORM, NORM_ADD } Form;

/* What is known at compile time in every inner loop. */
typedef struct {
    Form form;
    int hard, bf16;
} Kind;

typedef struct {
    int64_t samples, channels, positions;
    int channels_last;
    int threads;
} Shape;

typedef struct {
    const void *x, *r, *g;
    void *y, *dr; /* GRADIENT writes dx into y */
} Tensors;

/* One float for each channel, 0 where there is none. */
typedef struct {
    const float *M, *A, *B, *K, *R, *w, *b;
    const float *x_shift, *x_slope, *r_shift, *r_slope; /* of BatchNorm's gradient */
} Channels;

/* Of one sample. LAYER: M is the float next to the mean, `offset` what is left of it. */
typedef struct {
    float M, offset, mu, rho;
    float shift, slope; /* of the layer normalisation's gradient */
} Sample;

/* The coefficients of a strip. */
typedef struct {
    vf M, A, B, K, R, offset; /* z - mu = y0 + offset */
    vf w, rho, gain;       /* gain = w rho */
    vf t_gain, t_bias;     /* t = t_gain y0 + t_bias, in units of SCALE_UNIT */
    vf shift, slope, x_shift, x_slope, r_shift, r_slope;
} Strip;

/* Where the vectors of a strip's block lie: `whole` of 16 lanes, then `cut` of `lanes` lanes, `step` elements apart. */
typedef struct {
    int64_t start, step, whole, cut;
    int lanes;
} Span;

INLINE vf channel(const float *array, int64_t c, int count, int across, float absent) {
    if (!array) return splat(absent);
    return across ? load(0, array, c, count) : splat(array[c]);
}

/* The strip of channel c (or, across channels, of c .. c + count - 1) of a sample. */
INLINE void make_strip(Strip *k, Kind kind, const Channels *ch, const Sample *n, int64_t c, int count, int across) {
    vf w = channel(ch->w, c, count, across, 1.0f), b = channel(ch->b, c, count, across, 0.0f);
    if (kind.form == LAYER) {
        k->M = splat(n->M);
        k->offset = splat(n->offset);
    } else {
        k->M = channel(ch->M, c, count, across, 0.0f);
        k->A = channel(ch->A, c, count, across, 1.0f);
        k->B = channel(ch->B, c, count, across, 0.0f);
        k->K = channel(ch->K, c, count, across, 0.0f);
        k->R = channel(ch->R, c, count, across, 1.0f);
        k->offset = k->B - n->mu;
        k->x_shift = channel(ch->x_shift, c, count, across, 0.0f);
        k->x_slope = channel(ch->x_slope, c, count, across, 0.0f);
        k->r_shift = channel(ch->r_shift, c, count, across, 0.0f);
        k->r_slope = channel(ch->r_slope, c, count, across, 0.0f);
    }
    k->w = w;
    k->rho = splat(n->rho);
    k->gain = w * n->rho;
    k->t_gain = k->gain * SCALE_UNIT(kind.hard);
    k->t_bias = k->t_gain * k->offset + b * SCALE_UNIT(kind.hard);
    k->shift = splat(n->shift);
    k->slope = splat(n->slope);
}

typedef struct {
    vf dx_in, dr_in, y0, z, t; /* x - M, r - K, ... */
} Point;

INLINE Point point(Form form, const Strip *k, vf x, vf r) {
    Point p = {x - k->M, r, x - k->M, x, x};
    if (form != LAYER) {
        p.y0 = p.dx_in * k->A;
        if (form == NORM_ADD) {
            p.dr_in = r - k->K;
            p.y0 += p.dr_in * k->R;
        }
        p.z = p.y0 + k->B;
    }
    p.t = p.y0 * k->t_gain + k->t_bias;
    return p;
}

/* Ask for what the strip's next block will read. Channels-last blocks lie a row apart, which no hardware foresees. */
INLINE void prefetch(Pass pass, Kind kind, const Tensors *at, int64_t next) {
    const int64_t offset = next * (kind.bf16 ? 2 : 4);
    __builtin_prefetch((const char *)at->x + offset, 0, 2);
    if (kind.form == NORM_ADD) __builtin_prefetch((const char *)at->r + offset, 0, 2);
    if (pass == SUMS || pass == GRADIENT) __builtin_prefetch((const char *)at->g + offset, 0, 2);
    if (pass == VALUE || pass == GRADIENT) __builtin_prefetch((const char *)at->y + offset, 1, 2);
    if (pass == GRADIENT && kind.form == NORM_ADD) __builtin_prefetch((const char *)at->dr + offset, 1, 2);
}

/* One vector of a strip. STATS takes M and K as pivots near the means, and counts the lanes in `keep`. */
INLINE void visit(Pass pass, Kind kind, const Strip *k, const Tensors *at, int64_t i, int count, vi keep, vf *sums) {
    const int add = kind.form == NORM_ADD;
    vf x = load(kind.bf16, at->x, i, count), r = add ? load(kind.bf16, at->r, i, count) : x;
    if (pass == STATS) {
        vf a = (vf)((vi)(x - k->M) & keep);
        sums[0] += a;
        sums[1] += a * a;
        if (!add) return;
        vf b = (vf)((vi)(r - k->K) & keep);
        sums[2] += b;
        sums[3] += b * b;
        sums[4] += a * b;
        return;
    }
    Point p = point(kind.form, k, x, r);
    vf s = scale(kind.hard, kind.bf16, p.t);
    if (pass == VALUE) {
        store(kind.bf16, at->y, i, count, p.z * s);
        return;
    }
    vf g = load(kind.bf16, at->g, i, count);
    vf h = g * p.z * slope(kind.hard, p.t, s);
    if (pass == SUMS) {
        sums[0] += h;
        sums[1] += h * (p.y0 + k->offset);
        if (kind.form == LAYER) return;
        vf u = g * s + h * k->gain;
        sums[2] += u;
        sums[3] += u * p.dx_in;
        if (add) sums[4] += u * p.dr_in;
        return;
    }
    vf dz = g * s + k->rho * (k->w * h - k->shift - k->slope * (p.y0 + k->offset));
    if (add) store(kind.bf16, at->dr, i, count, k->R * (dz - k->r_shift - k->r_slope * p.dr_in));
    store(kind.bf16, at->y, i, count, kind.form == LAYER ? dz : k->A * (dz - k->x_shift - k->x_slope * p.dx_in));
}

/* How many sums a pass takes. */
INLINE int quantities(Pass pass, Form form) {
    if (pass == STATS) return form == NORM_ADD ? 5 : 2;
    if (pass == SUMS) return form == LAYER ? 2 : form == NORM ? 4 : 5;
    return 0;
}

/* At most BLOCK vectors of a strip; their sums, lane by lane. */
INLINE void block(Pass pass, Kind kind, const Strip *strip, const Tensors *at, Span span, vf *sums) {
    const Strip k = *strip;
    for (int q = 0; q < QUANTITIES; q++) sums[q] = (vf){0};
    int64_t i = span.start;
    for (int64_t whole = 0; whole < span.whole; whole++, i += span.step) {
        prefetch(pass, kind, at, i + BLOCK * span.step);
        visit(pass, kind, &k, at, i, LANES, first_lanes(LANES), sums);
    }
    for (int64_t cut = 0; cut < span.cut; cut++, i += span.step)
        visit(pass, kind, &k, at, i, span.lanes, first_lanes(span.lanes), sums);
}

/* A value near the mean, for float32 to keep the digits of the differences: the mean of a few vectors of x or r, lane by
 * lane where lanes are channels. */
INLINE vf pivot(int bf16, const void *array, Span span, int across) {
    vf sum = {0};
    int64_t i = span.start;
    if (span.whole) span.whole = span.whole < BLOCK ? 1 + (span.whole > 8) * 7 : BLOCK, span.cut = 0;
    for (int64_t whole = 0; whole < span.whole; whole++, i += span.step) sum += load(bf16, array, i, LANES);
    for (int64_t cut = 0; cut < span.cut; cut++, i += span.step) sum += load(bf16, array, i, span.lanes);
    if (across) return sum / (float)(span.whole + span.cut);
    return splat((float)(sum_lanes(sum) / (double)(span.whole * LANES + span.cut * span.lanes)));
}

typedef struct {
    Pass pass;
    Kind kind;
    Shape shape;
    Tensors at;
    Channels channels;
    double *out; /* (QUANTITIES, samples, channels): what STATS and SUMS find */
} Job;

INLINE void set_pivots(Kind kind, const Job *job, Strip *k, Span span, int across) {
    k->M = pivot(kind.bf16, job->at.x, span, across);
    k->K = kind.form == NORM_ADD ? pivot(kind.bf16, job->at.r, span, across) : splat(0.0f);
}

/* Turn the sums of STATS around pivots into means and centred sums of squares and products: by lane, or of one row. */
#define CENTRE(totals, x_pivot, r_pivot, share, add)          \
    do {                                                      \
        totals[1] -= totals[0] * totals[0] * (share);         \
        if (add) {                                            \
            totals[3] -= totals[2] * totals[2] * (share);     \
            totals[4] -= totals[0] * totals[2] * (share);     \
            totals[2] = (r_pivot) + totals[2] * (share);      \
        }                                                     \
        totals[0] = (x_pivot) + totals[0] * (share);          \
    } while (0)

INLINE double *out_at(const Job *job, int q, int64_t n, int64_t c) {
    return job->out + (q * job->shape.samples + n) * job->shape.channels + c;
}

/* Contiguous memory: channels [from, to) of sample n. */
INLINE void rows(Pass pass, Kind kind, const Job *job, const Sample *sample, int64_t n, int64_t from, int64_t to) {
    const Shape *shape = &job->shape;
    const int64_t positions = shape->positions, longest = BLOCK * LANES;
    const int count = quantities(pass, kind.form);
    const double share = 1.0 / (double)positions;
    for (int64_t c = from; c < to; c++) {
        Strip k = {0};
        double totals[QUANTITIES] = {0};
        if (pass != STATS) make_strip(&k, kind, &job->channels, sample, c, LANES, 0);
        for (int64_t p = 0; p < positions; p += longest) {
            int64_t left = positions - p < longest ? positions - p : longest;
            Span span = {(n * shape->channels + c) * positions + p, LANES, left / LANES, left % LANES != 0,
                         (int)(left % LANES)};
            vf sums[QUANTITIES];
            if (pass == STATS && p == 0) set_pivots(kind, job, &k, span, 0);
            block(pass, kind, &k, &job->at, span, sums);
            for (int q = 0; q < count; q++) totals[q] += sum_lanes(sums[q]);
        }
        if (pass == STATS) CENTRE(totals, k.M[0], k.K[0], share, kind.form == NORM_ADD);
        for (int q = 0; q < count; q++) *out_at(job, q, n, c) = totals[q];
    }
}

/* What the strip of channels c .. c + lanes - 1 has come to. */
typedef struct {
    vd totals[QUANTITIES];
    Strip k;
} Column;

/* Channels-last memory: positions [first, last) of a strip. */
INLINE void column(Pass pass, Kind kind, const Job *job, const Sample *sample, int64_t n, int64_t c, int lanes,
                   int64_t first, int64_t last, Column *column) {
    const int64_t channels = job->shape.channels;
    const int count = quantities(pass, kind.form);
    if (first == 0) {
        for (int q = 0; q < count; q++) column->totals[q] = (vd){0};
        if (pass != STATS) make_strip(&column->k, kind, &job->channels, sample, c, lanes, 1);
    }
    for (int64_t p = first; p < last; p += BLOCK) {
        int64_t left = last - p < BLOCK ? last - p : BLOCK;
        Span span = {(n * job->shape.positions + p) * channels + c, channels, lanes == LANES ? left : 0,
                     lanes == LANES ? 0 : left, lanes};
        if (pass == STATS && p == 0) set_pivots(kind, job, &column->k, span, 1);
        vf sums[QUANTITIES];
        block(pass, kind, &column->k, &job->at, span, sums);
        for (int q = 0; q < count; q++) column->totals[q] += widen(sums[q]);
    }
    if (last < job->shape.positions) return;
    const double share = 1.0 / (double)job->shape.positions;
    if (pass == STATS)
        CENTRE(column->totals, widen(column->k.M), widen(column->k.K), share, kind.form == NORM_ADD);
    for (int q = 0; q < count; q++) {
        double *out = out_at(job, q, n, c);
        if (lanes == LANES)
            *(vd_at *)out = column->totals[q];
        else
            for (int lane = 0; lane < lanes; lane++) out[lane] = column->totals[q][lane];
    }
}

/* Channels-last memory: channels [from, to) of sample n. A small sample goes strip by strip. A large one goes BLOCK
 * positions of all strips at a time, nearly as it lies in memory, and keeps all strips at hand. */
INLINE int columns(Pass pass, Kind kind, const Job *job, const Sample *sample, int64_t n, int64_t from, int64_t to) {
    const int64_t positions = job->shape.positions, strips = (to - from + LANES - 1) / LANES;
    const int small = positions * job->shape.channels <= SMALL;
    Column one, *all = small ? &one : aligned_alloc(sizeof(vd), (size_t)strips * sizeof(Column));
    if (!all) return 1;
    const int64_t tile = small ? positions : BLOCK;
    for (int64_t p = 0; p < positions; p += tile)
        for (int64_t i = 0; i < strips; i++) {
            const int64_t c = from + i * LANES, last = positions - p < tile ? positions : p + tile;
            const int lanes = to - c < LANES ? (int)(to - c) : LANES;
            column(pass, kind, job, sample, n, c, lanes, p, last, small ? all : all + i);
        }
    if (!small) free(all);
    return 0;
}

/* Either, compiled for every combination, so that no inner loop asks what it is doing. */
typedef int Walk(const Job *, const Sample *, int64_t, int64_t, int64_t);
#define COMPILE(pass, form, hard, bf16)                                                                            \
    static int pass##_##form##_##hard##bf16(const Job *job, const Sample *s, int64_t n, int64_t from, int64_t to) { \
        const Kind kind = {form, hard, bf16};                                                                      \
        if (job->shape.channels_last) return columns(pass, kind, job, s, n, from, to);                             \
        rows(pass, kind, job, s, n, from, to);                                                                     \
        return 0;                                                                                                  \
    }
#define COMPILE_TYPES(pass, form) \
    COMPILE(pass, form, 0, 0) COMPILE(pass, form, 0, 1) COMPILE(pass, form, 1, 0) COMPILE(pass, form, 1, 1)
#define COMPILE_FORMS(pass) COMPILE_TYPES(pass, LAYER) COMPILE_TYPES(pass, NORM) COMPILE_TYPES(pass, NORM_ADD)
COMPILE_FORMS(STATS)
COMPILE_FORMS(VALUE)
COMPILE_FORMS(SUMS)
COMPILE_FORMS(GRADIENT)
#define TYPES(pass, form) {{pass##_##form##_00, pass##_##form##_01}, {pass##_##form##_10, pass##_##form##_11}}
#define FORMS(pass) {TYPES(pass, LAYER), TYPES(pass, NORM), TYPES(pass, NORM_ADD)}
static Walk *const WALKS[4][3][2][2] = {FORMS(STATS), FORMS(VALUE), FORMS(SUMS), FORMS(GRADIENT)};

/* One pass over sample n, its channels shared among `threads`; returns how many shares failed for want of memory. */
static int pass_sample(const Job *job, const Sample *sample, int64_t n, int threads) {
    Walk *const walk = WALKS[job->pass][job->kind.form][job->kind.hard][job->kind.bf16];
    const int64_t channels = job->shape.channels;
    if (threads == 1) return walk(job, sample, n, 0, channels); /* a parallel region inside another costs, even of one */
    const int64_t share = ((channels + threads - 1) / threads + LANES - 1) / LANES * LANES;
    int failed = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : failed)
    for (int64_t from = 0; from < channels; from += share)
        failed += walk(job, sample, n, from, from + share < channels ? from + share : channels);
    return failed;
}

/* Threads over samples (returned) and within one (*within). */
static int split_threads(const Shape *shape, int *within) {
    int over = shape->samples >= shape->threads ? shape->threads : 1;
    *within = over == 1 ? shape->threads : 1;
    return over;
}

/* LayerAct forward: y, and for each sample its mean and inverse deviation in stats (samples, 2). */
int layer_act_forward(int hard, int bf16, const void *x, void *y, double *stats, double *scratch, const float *w,
                      const float *b, int64_t samples, int64_t channels, int64_t positions, int channels_last,
                      double alpha, int threads) {
    Job job = {STATS, {LAYER, hard, bf16}, {samples, channels, positions, channels_last, threads},
               {.x = x, .y = y}, {.w = w, .b = b}, scratch};
    int within, over = split_threads(&job.shape, &within), failed = 0;
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
        sample = (Sample){.M = (float)mean, .offset = (float)((float)mean - mean), .rho = (float)stats[2 * n + 1]};
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
    int within, over = split_threads(&job.shape, &within), failed = 0;
#pragma omp parallel for num_threads(over) if (over > 1) reduction(+ : failed)
    for (int64_t n = 0; n < samples; n++) {
        Job own = job;
        const double mean = stats[2 * n], rho = stats[2 * n + 1];
        Sample sample = {.M = (float)mean, .offset = (float)((float)mean - mean), .rho = (float)rho};
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
    int within, over = split_threads(&job.shape, &within), failed = 0;
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
    int failed = norm_act_pass(SUMS, hard, bf16, x, r, g, 0, 0, channels_io, samples_io, work, samples, channels,
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
    return failed + norm_act_pass(GRADIENT, hard, bf16, x, r, g, dx, dr, channels_io, samples_io, 0, samples, channels,
                                  positions, channels_last, threads);
}
