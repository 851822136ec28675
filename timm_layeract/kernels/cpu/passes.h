/* The passes over memory that LayerAct, and BatchNorm (+ residual) + LayerAct, are made of.
 *
 * Notation, for sample n, channel c and position p (see kernels/batch_norm.py for the derivation):
 *
 *     z = x                                        LAYER: LayerAct alone
 *     z = A (x - M) + B                            NORM: after a BatchNorm, A = gamma / deviation, B = beta
 *     z = A (x - M) + R (r - K) + B                NORM_ADD: and a residual r (its own BatchNorm, or R = 1, K = 0)
 *     y = z s(t),   t = w rho (z - mu) + b         mu, rho: mean and inverse deviation of the sample; w, b: affine
 *
 * Four passes: STATS (mean and centred squares of each row), VALUE (y), SUMS (what the gradient needs to know of all
 * positions; leaves u = g (s + w rho z s'), the gradient but for the statistics, where dx will be) and GRADIENT. A pass walks over *strips*. In contiguous memory a strip is one row: the P positions of an
 * (n, c). In channels-last memory it is 16 neighbouring channels at all positions. Either way it is a sequence of
 * 16-float vectors, and its coefficients are vectors: one number 16 times over, or 16 channels' numbers.
 * Sums run in float32 over at most BLOCK vectors, then in float64.
 */
#ifndef LAYERACT_PASSES_H
#define LAYERACT_PASSES_H

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
    void *y, *dr; /* SUMS writes u into y, which GRADIENT turns into dx */
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
    vf rho, gain;             /* gain = w rho */
    vf t_gain, t_bias;        /* t = t_gain y0 + t_bias, in units of SCALE_UNIT */
    vf shift, slope, x_shift, x_slope, r_shift, r_slope;
} Strip;

/* Where the vectors of a strip's block lie: `whole` of 16 lanes, then `cut` of `lanes` lanes, `step` elements apart. */
typedef struct {
    int64_t start, step, whole, cut, ahead;
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
    k->rho = splat(n->rho);
    k->gain = w * n->rho;
    k->t_gain = k->gain * SCALE_UNIT(kind.hard);
    k->t_bias = k->t_gain * k->offset + b * SCALE_UNIT(kind.hard);
    k->shift = splat(n->shift);
    k->slope = splat(n->slope);
}

/* What is known at one position of every lane. */
typedef struct {
    vf x_centred, r_centred, y0, z, t; /* x - M, r - K, ... */
} Point;

INLINE Point point(Form form, const Strip *k, vf x, vf r) {
    Point p = {x - k->M, r, x - k->M, x, x};
    if (form != LAYER) {
        p.y0 = p.x_centred * k->A;
        if (form == NORM_ADD) {
            p.r_centred = r - k->K;
            p.y0 += p.r_centred * k->R;
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
    if (pass == SUMS) __builtin_prefetch((const char *)at->g + offset, 0, 2);
    if (pass != STATS) __builtin_prefetch((const char *)at->y + offset, 1, 2);
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
    if (pass == GRADIENT) { /* loading u takes a third of the time of the scale; in bfloat16 it is rounded as g was */
        vf u = load(kind.bf16, at->y, i, count);
        vf dz = u - k->rho * (k->shift + k->slope * (p.y0 + k->offset));
        if (add) store(kind.bf16, at->dr, i, count, k->R * (dz - k->r_shift - k->r_slope * p.r_centred));
        store(kind.bf16, at->y, i, count,
              kind.form == LAYER ? dz : k->A * (dz - k->x_shift - k->x_slope * p.x_centred));
        return;
    }
    vf s = scale(kind.hard, kind.bf16, p.t);
    if (pass == VALUE) {
        store(kind.bf16, at->y, i, count, p.z * s);
        return;
    }
    vf g = load(kind.bf16, at->g, i, count);
    vf h = g * p.z * slope(kind.hard, p.t, s), u = g * s + h * k->gain;
    store(kind.bf16, at->y, i, count, u);
    sums[0] += h;
    sums[1] += h * (p.y0 + k->offset);
    if (kind.form == LAYER) return;
    sums[2] += u;
    sums[3] += u * p.x_centred;
    if (add) sums[4] += u * p.r_centred;
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
        prefetch(pass, kind, at, i + span.ahead);
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
                         BLOCK * LANES, (int)(left % LANES)};
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
                     lanes == LANES ? 0 : left, last == job->shape.positions && first == 0 ? 4 * LANES : BLOCK * channels, lanes};
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

#endif
