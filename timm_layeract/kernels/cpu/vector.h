/* Sixteen floats at a time: loads, stores and the scale functions, in the vector extension of GCC and Clang.
 *
 * The compiler lowers a 16-float vector to what the target has: one AVX-512 register, two AVX2, four SSE or NEON.
 * Compiled without -ffast-math: NaN and infinity travel through as they do in torch.
 */
#ifndef LAYERACT_VECTOR_H
#define LAYERACT_VECTOR_H

#include <stdint.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 16
#define INLINE static inline __attribute__((always_inline))
#define UNUSED __attribute__((unused)) /* where there is no OpenMP */

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));
typedef double vd __attribute__((vector_size(128)));
typedef uint16_t vh __attribute__((vector_size(32)));
/* The same in memory, at any address. */
typedef float vf_at __attribute__((vector_size(64), aligned(4), may_alias));
typedef double vd_at __attribute__((vector_size(128), aligned(8), may_alias));
typedef uint16_t vh_at __attribute__((vector_size(32), aligned(2), may_alias));

INLINE vf splat(float a) { return a - (vf){0}; }
INLINE vf choose(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
INLINE vd widen(vf a) { return __builtin_convertvector(a, vd); }

/* All bits set in the first `count` lanes. */
INLINE vi first_lanes(int count) {
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return lane < count;
}

INLINE double sum_lanes(vf a) {
    typedef float quarter __attribute__((vector_size(16)));
    union {
        vf whole;
        quarter part[4];
    } lanes = {a};
    const quarter sum = (lanes.part[0] + lanes.part[1]) + (lanes.part[2] + lanes.part[3]);
    return (double)(sum[0] + sum[1]) + (double)(sum[2] + sum[3]);
}

/* bfloat16 is the upper half of a float32; rounding is to the nearest, ties to even. NaN stays NaN: those that
 * arithmetic makes, and those read from bfloat16, have room in the lower half for what rounding adds. */
INLINE vf from_bfloat16(vh a) {
#ifdef __AVX512F__ /* the compiler's own conversion takes four instructions */
    return (vf)((vu)_mm512_cvtepu16_epi32((__m256i)a) << 16);
#else
    return (vf)(__builtin_convertvector(a, vu) << 16);
#endif
}
INLINE vh to_bfloat16(vf a) {
#ifdef __AVX512BF16__
    return (vh)_mm512_cvtneps_pbh((__m512)a);
#else
    vu bits = (vu)a;
    return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, vh);
#endif
}

/* Elements [index, index + count) of an array of float32 or bfloat16; zeros behind. */
INLINE vf load(int bf16, const void *array, int64_t index, int count) {
    const float *f = (const float *)array + index;
    const uint16_t *h = (const uint16_t *)array + index;
    if (count == LANES) return bf16 ? from_bfloat16(*(const vh_at *)h) : (vf)(*(const vf_at *)f);
#ifdef __AVX512F__ /* element by element, as below, a row's end takes as long as the row */
    const uint16_t mask = (uint16_t)((1u << count) - 1u);
    if (bf16) return from_bfloat16((vh)_mm256_maskz_loadu_epi16(mask, h));
    return (vf)_mm512_maskz_loadu_ps(mask, f);
#endif
    if (bf16) {
        vh part = {0};
        for (int lane = 0; lane < count; lane++) part[lane] = h[lane];
        return from_bfloat16(part);
    }
    vf part = {0};
    for (int lane = 0; lane < count; lane++) part[lane] = f[lane];
    return part;
}

INLINE void store(int bf16, void *array, int64_t index, int count, vf a) {
    float *f = (float *)array + index;
    uint16_t *h = (uint16_t *)array + index;
#ifdef __AVX512F__
    if (count < LANES) {
        const uint16_t mask = (uint16_t)((1u << count) - 1u);
        if (bf16)
            _mm256_mask_storeu_epi16(h, mask, (__m256i)to_bfloat16(a));
        else
            _mm512_mask_storeu_ps(f, mask, (__m512)a);
        return;
    }
#endif
    if (bf16) {
        vh rounded = to_bfloat16(a);
        if (count == LANES)
            *(vh_at *)h = rounded;
        else
            for (int lane = 0; lane < count; lane++) h[lane] = rounded[lane];
    } else if (count == LANES)
        *(vf_at *)f = a;
    else
        for (int lane = 0; lane < count; lane++) f[lane] = a[lane];
}

/* x, kept between -limit and limit; NaN stays. */
INLINE vf clamp(vf x, float limit) {
#ifdef __AVX512F__ /* these return the second operand where one is NaN */
    return (vf)_mm512_min_ps((__m512)splat(limit), _mm512_max_ps((__m512)splat(-limit), (__m512)x));
#else
    x = choose(x < -limit, splat(-limit), x);
    return choose(x > limit, splat(limit), x);
#endif
}

/* 2^x, x clamped to [-126, 126], by a minimax polynomial on [-1/2, 1/2]: to 1e-7 of itself, or to 1e-4 where the
 * result will be rounded to bfloat16 (4e-3). */
INLINE vf power_of_two(int bf16, vf x) {
    x = clamp(x, 126.0f);
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: adding it rounds, and leaves the integer in the low bits */
    vf shifted = x + to_integer, f = x - (shifted - to_integer), p;
    if (bf16) {
        p = f * 5.51716685e-2f + 2.42611125e-1f;
        p = p * f + 6.93260968e-1f;
        p = p * f + 9.99928057e-1f;
    } else {
        p = f * 1.32764725e-3f + 9.67554096e-3f;
        p = p * f + 5.55071309e-2f;
        p = p * f + 2.40221202e-1f;
        p = p * f + 6.93146944e-1f;
        p = p * f + 1.00000012f;
    }
    return (vf)((vu)p + ((vu)shifted << 23));
}

/* Scale functions take their argument t multiplied by this: the sigmoid is 1 / (1 + 2^(-t log2 e)). */
#define SCALE_UNIT(hard) ((hard) ? 1.0f : -1.44269504f)

/* The sigmoid, or the hard sigmoid clip((t + 3) / 6, 0, 1), and their slopes where they are s. */
INLINE vf scale(int hard, int bf16, vf t) {
    if (!hard) {
        vf below = 1.0f + power_of_two(bf16, t);
#ifdef __AVX512F__
        if (bf16) return (vf)_mm512_rcp14_ps((__m512)below); /* to 6e-5 of itself */
#endif
        return 1.0f / below;
    }
    vf s = (t + 3.0f) * (1.0f / 6.0f);
    s = choose(t <= -3.0f, splat(0.0f), s);
    return choose(t >= 3.0f, splat(1.0f), s);
}
INLINE vf slope(int hard, vf t, vf s) {
    if (!hard) return s - s * s;
    vf outside = s - s; /* 0, or NaN where t is */
    return choose((t > -3.0f) & (t < 3.0f), splat(1.0f / 6.0f), outside);
}

#endif
