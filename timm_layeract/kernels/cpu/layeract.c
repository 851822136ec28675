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

INLINE void block(Pass pass, Kind kind, const Strip *strip, const Tensors *at, Span span, vd *totals) {
    const Strip k = *strip;
    vf sums[QUANTITIES] = {{0}};
    int64_t i = span.start;
    for (int64_t whole = 0; whole < span.whole; whole++, i += span.step) {
        prefetch(pass, kind, at, i + BLOCK * span.step);
        visit(pass, kind, &k, at, i, LANES, first_lanes(LANES), sums);
    }
    for (int64_t cut = 0; cut < span.cut; cut++, i += span.step)
        visit(pass, kind, &k, at, i, span.lanes, first_lanes(span.lanes), sums);
    if (pass == STATS || pass == SUMS)
        for (int q = 0; q < QUANTITIES; q++) totals[q] += widen(sums[q]);
}

/* `block` compiled for every combination, so that no inner loop asks what it is doing. */
typedef void Block(const Strip *, const Tensors *, Span, vd *);
#define COMPILE(pass, form, hard, bf16)                                                                  \
    static void pass##_##form##_##hard##bf16(const Strip *k, const Tensors *at, Span span, vd *totals) { \
        block(pass, (Kind){form, hard, bf16}, k, at, span, totals);                                      \
    }
#define COMPILE_TYPES(pass, form) \
    COMPILE(pass, form, 0, 0) COMPILE(pass, form, 0, 1) COMPILE(pass, form, 1, 0) COMPILE(pass, form, 1, 1)
#define COMPILE_FORMS(pass) COMPILE_TYPES(pass, LAYER) COMPILE_TYPES(pass, NORM) COMPILE_TYPES(pass, NORM_ADD)
COMPILE_FORMS(STATS)
COMPILE_FORMS(VALUE)
COMPILE_FORMS(SUMS)
COMPILE_FORMS(GRADIENT)
#define TYPES(pass, form) \
    {{pass##_##form##_00, pass##_##form##_01}, {pass##_##form##_10, pass##_##form##_11}}
#define FORMS(pass) {TYPES(pass, LAYER), TYPES(pass, NORM), TYPES(pass, NORM_ADD)}
static Block *const BLOCKS[4][3][2][2] = {FORMS(STATS), FORMS(VALUE), FORMS(SUMS), FORMS(GRADIENT)};

/* Lane-wise mean of a block of x or r, over all of its lanes unless `across` channels. */
static vf pivot(int bf16, const void *array, Span span, int across) {
    vf sum = {0};
    int64_t i = span.start;
    for (int64_t whole = 0; whole < span.whole; whole++, i += span.step) sum += load(bf16, array, i, LANES);
    for (int64_t cut = 0; cut < span.cut; cut++, i += span.step) sum += load(bf16, array, i, span.lanes);
    if (across) return sum / (float)(span.whole + span.cut);
    return splat((float)(sum_lanes(widen(sum)) / (double)(span.whole * LANES + span.cut * span.lanes)));
}

/* Turn the sums of STATS around pivots into means and centred sums of squares and products. */
INLINE void centre(vd *totals, const Strip *k, double count) {
    vd x = totals[0] / count, r = totals[2] / count;
    totals[1] -= totals[0] * x;
    totals[3] -= totals[2] * r;
    totals[4] -= totals[0] * r;
    totals[0] = widen(k->M) + x;
    totals[2] = widen(k->K) + r;
}

typedef struct {
    Pass pass;
    Kind kind;
    Shape shape;
    Tensors at;
    Channels channels;
    double *out; /* (QUANTITIES, samples, channels): what STATS and SUMS find */
} Job;

static void write_out(const Job *job, int64_t n, int64_t c, int q, double value) {
    job->out[(q * job->shape.samples + n) * job->shape.channels + c] = value;
}

/* Contiguous memory: channels [from, to) of sample n. */
static void rows(const Job *job, const Sample *sample, int64_t n, int64_t from, int64_t to) {
    const Shape *shape = &job->shape;
    Block *run = BLOCKS[job->pass][job->kind.form][job->kind.hard][job->kind.bf16];
    const int64_t positions = shape->positions, longest = BLOCK * LANES;
    for (int64_t c = from; c < to; c++) {
        Strip k;
        vd totals[QUANTITIES] = {{0}};
        make_strip(&k, job->kind, &job->channels, sample, c, LANES, 0);
        for (int64_t p = 0; p < positions; p += longest) {
            int64_t left = positions - p < longest ? positions - p : longest;
            Span span = {(n * shape->channels + c) * positions + p, LANES, left / LANES, left % LANES != 0,
                         (int)(left % LANES)};
            if (job->pass == STATS && p == 0) {
                k.M = pivot(job->kind.bf16, job->at.x, span, 0);
                k.K = job->kind.form == NORM_ADD ? pivot(job->kind.bf16, job->at.r, span, 0) : splat(0.0f);
            }
            run(&k, &job->at, span, totals);
        }
        if (job->pass != STATS && job->pass != SUMS) continue;
        double sums[QUANTITIES];
        for (int q = 0; q < QUANTITIES; q++) sums[q] = sum_lanes(totals[q]);
        if (job->pass == STATS) {
            vd across[QUANTITIES];
            for (int q = 0; q < QUANTITIES; q++) across[q] = sums[q] - (vd){0};
            centre(across, &k, (double)positions);
            for (int q = 0; q < QUANTITIES; q++) sums[q] = across[q][0];
        }
        for (int q = 0; q < QUANTITIES; q++) write_out(job, n, c, q, sums[q]);
    }
}

/* Channels-last memory: channels [from, to) of sample n, BLOCK positions of all of them at a time. */
static int columns(const Job *job, const Sample *sample, int64_t n, int64_t from, int64_t to) {
    const Shape *shape = &job->shape;
    Block *run = BLOCKS[job->pass][job->kind.form][job->kind.hard][job->kind.bf16];
    const int64_t channels = shape->channels, strips = (to - from + LANES - 1) / LANES;
    const size_t bytes = (size_t)strips * (sizeof(Strip) + QUANTITIES * sizeof(vd));
    Strip *k = aligned_alloc(sizeof(vd), (bytes + sizeof(vd) - 1) / sizeof(vd) * sizeof(vd));
    if (!k) return 1;
    vd *totals = (vd *)(void *)k; /* first, as they need the stricter alignment */
    k = (Strip *)(void *)(totals + strips * QUANTITIES);
    for (int64_t i = 0; i < strips * QUANTITIES; i++) totals[i] = (vd){0};
    for (int64_t p = 0; p < shape->positions; p += BLOCK) {
        int64_t left = shape->positions - p < BLOCK ? shape->positions - p : BLOCK;
        for (int64_t i = 0; i < strips; i++) {
            int64_t c = from + i * LANES;
            int lanes = to - c < LANES ? (int)(to - c) : LANES;
            Span span = {(n * shape->positions + p) * channels + c, channels, lanes == LANES ? left : 0,
                         lanes == LANES ? 0 : left, lanes};
            if (p == 0) make_strip(&k[i], job->kind, &job->channels, sample, c, lanes, 1);
            if (job->pass == STATS && p == 0) {
                k[i].M = pivot(job->kind.bf16, job->at.x, span, 1);
                k[i].K = job->kind.form == NORM_ADD ? pivot(job->kind.bf16, job->at.r, span, 1) : splat(0.0f);
            }
            run(&k[i], &job->at, span, totals + i * QUANTITIES);
        }
    }
    if (job->pass == STATS || job->pass == SUMS)
        for (int64_t i = 0; i < strips; i++) {
            if (job->pass == STATS) centre(totals + i * QUANTITIES, &k[i], (double)shape->positions);
            for (int64_t c = from + i * LANES; c < to && c < from + (i + 1) * LANES; c++)
                for (int q = 0; q < QUANTITIES; q++)
                    write_out(job, n, c, q, totals[i * QUANTITIES + q][(c - from) % LANES]);
        }
    free(totals);
    return 0;
}

/* One pass over sample n, its channels shared among `threads`; returns how many shares failed for want of memory. */
static int pass_sample(const Job *job, const Sample *sample, int64_t n, int threads) {
    const int64_t channels = job->shape.channels;
    const int64_t share = ((channels + threads - 1) / threads + LANES - 1) / LANES * LANES;
    int failed = 0;
#pragma omp parallel for num_threads(threads) if (threads > 1) reduction(+ : failed)
    for (int64_t from = 0; from < channels; from += share) {
        int64_t to = from + share < channels ? from + share : channels;
        if (job->shape.channels_last)
            failed += columns(job, sample, n, from, to);
        else
            rows(job, sample, n, from, to);
    }
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

/* One pass of BatchNorm (+ residual if r) + LayerAct. channels_in: (11, channels), in the order of Channels; samples_in:
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
