// attention_causal_6d2fa8: 4 calls (2 in step, 2 in evaluate)
//   tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
//   computes  attention: out = softmax(scale q k^T) v, over the positions up to its own if `causal`; lse = log sum
//               e^scores
//   moves     16.6 kB, 32.8 kflop in its first call
//   template  templates/c/attention.c.j2
//   tuning    MR 4
#include "support.h"
#include <omp.h>

// Flash attention (Dao et al. 2022): a few queries, as many as a register tile has rows, meet the keys block by block,
// and their softmax is kept up to date on the way, so that no T x T matrix exists. A head's keys and values are first
// packed in the order in which the tiles read them, and then stay in the L2 cache. A thread takes a whole head, or
// a part of its queries where threads are many.

enum {
    MR = 4,              // rows of a register tile
    NR = 2 * VEC,        // its columns
    KEYS = 384,          // of a block: MR rows of scores, 13 KB for 8, stay in the L1 cache
    SCORES = KEYS + VEC, // from a row of scores to the next: a power of two apart they would share cache sets
    LINE = 64,           // bytes of a cache line
};

// How many keys of the block that begins at j0 query i may see: those at or before it.
static inline int64_t visible(int64_t i, int64_t j0, int64_t T)
{
    return gptc_min(KEYS, gptc_min(i, T - 1) + 1 - j0);
}

// Requests rows that are needed soon: they lie too far apart for the hardware to guess. Past the end they do no harm.
static inline void request_rows(const float *from, int64_t stride, int64_t rows, int64_t D)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t d = 0; d < D; d += LINE / (int64_t)sizeof *from)
            __builtin_prefetch(from + i * stride + d);
}

// to[k][j] = from[j][k] for k < D and j < NR; rows past the last repeat it.
static inline void pack_columns(float *restrict to, const float *restrict from, int64_t stride, int64_t rows,
                                int64_t D)
{
    gptc_pack_transposed(to, NR, from, stride, rows, D);
}

// to[i][d] = from[i][d]; zero for D <= d < width, and for the rows from `rows` to `total`.
GPTC_NOINLINE void copy_rows(float *restrict to, int64_t width, const float *restrict from, int64_t stride,
                             int64_t rows, int64_t total, int64_t D)
{
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t d = 0; d < D; d++)
            to[i * width + d] = from[i * stride + d];
        for (int64_t d = D; d < width; d++)
            to[i * width + d] = 0;
    }
    for (int64_t i = rows * width; i < total * width; i++)
        to[i] = 0;
}

// c[i][j] = (add ? c[i][j] : 0) + sum over k of a(i, k) b[k][j], one MR x NR tile held in registers.
// a(i, k) is a[i * ai + k * ak], so that the same code multiplies by the transpose of a block.
GPTC_INLINE void multiply_tile(float *restrict c, int64_t ldc, int add, const float *restrict a, int64_t ai, int64_t ak,
                               const float *restrict b, int64_t ldb, int64_t kc)
{
    vf acc[MR][NR / VEC];
    GPTC_UNROLL
    for (int64_t i = 0; i < MR; i++)
        GPTC_UNROLL
        for (int64_t j = 0; j < NR / VEC; j++)
            acc[i][j] = add ? *(const vf *)(c + i * ldc + j * VEC) : (vf){0};
    for (int64_t k = 0; k < kc; k++)
        GPTC_UNROLL
        for (int64_t i = 0; i < MR; i++)
            GPTC_UNROLL
            for (int64_t j = 0; j < NR / VEC; j++)
                acc[i][j] += a[i * ai + k * ak] * *(const vf *)(b + k * ldb + j * VEC);
    GPTC_UNROLL
    for (int64_t i = 0; i < MR; i++)
        GPTC_UNROLL
        for (int64_t j = 0; j < NR / VEC; j++)
            *(vf *)(c + i * ldc + j * VEC) = acc[i][j];
}

// One row of products, of which n are visible, becomes 2^(scale s - max); up to `wide` it is 0 where hidden. `max` and
// `sum` of the row are updated. Returns 2^(old max - new max), the factor for everything summed under the old one.
static float softmax_row(float *restrict s, int64_t n, int64_t wide, float scale, float *restrict max,
                         float *restrict sum)
{
    float m = *max;
    #pragma omp simd reduction(max : m)
    for (int64_t j = 0; j < n; j++) {
        const float x = scale * s[j];
        m = x > m ? x : m;
    }
    float total = 0;
    #pragma omp simd reduction(+ : total)
    for (int j = 0; j < (int)wide; j++) { // no part of a vector needs code of its own
        s[j] = j < (int)n ? gptc_exp2(scale * s[j] - m) : 0;
        total += s[j];
    }
    const float factor = gptc_exp2(*max - m);
    *sum = *sum * factor + total;
    *max = m;
    return factor;
}

void attention_causal_6d2fa8(
    const float *restrict q, // [B, H, T, D], strides q_b, q_h, q_t, 1
    const float *restrict k, // [B, Hkv, T, D], strides k_b, k_h, k_t, 1
    const float *restrict v, // [B, Hkv, T, D], strides v_b, v_h, v_t, 1
    float *restrict out,     // [B, H, T, D], strides out_b, out_h, out_t, 1
    float *restrict lse,     // [B, H, T]
    int64_t B, int64_t H, int64_t Hkv, int64_t T, int64_t D,
    int64_t q_b, int64_t q_h, int64_t q_t,
    int64_t k_b, int64_t k_h, int64_t k_t,
    int64_t v_b, int64_t v_h, int64_t v_t,
    int64_t out_b, int64_t out_h, int64_t out_t)
{
    const float scale = 0.25 * 1.4426950408889634; // times log2(e): powers of two are faster
    const int64_t rows = gptc_round_up(T, NR), width = gptc_round_up(D, NR), depth = D;

    // The last queries come first: they see most keys. How queries are shared does not show in the bits.
    const int64_t heads = B * H, threads = omp_get_max_threads();
    const int64_t parts = heads % threads == 0 ? 1 : (2 * threads + heads - 1) / heads;
    const int64_t part = gptc_round_up((T + parts - 1) / parts, MR);

    #pragma omp parallel for schedule(dynamic)
    for (int64_t item = 0; item < heads * parts; item++) {
        const int64_t first = (parts - 1 - item / heads) * part, end = gptc_min(first + part, T);
        if (first >= T)
            continue;
        const int64_t head = item % heads, batch = head / H, h = head % H, hk = h / (H / Hkv);
        const float *Q = q + batch * q_b + h * q_h;
        const float *K = k + batch * k_b + hk * k_h;
        const float *V = v + batch * v_b + hk * v_h;
        float *O = out + batch * out_b + h * out_h;

        const int64_t floats = rows * (depth + width) + MR * (2 * width + SCORES + 2);
        float *keys = gptc_scratch(GPTC_PRIVATE, floats * sizeof *keys); // [rows / NR][D][NR]
        float *values = keys + rows * depth;                             // [rows][width]
        float *queries = values + rows * width;                          // [MR][width]
        float *sums = queries + MR * width;                              // [MR][width], 2^(s - max) V
        float *s = sums + MR * width;                                    // [MR][SCORES], scores, then 2^(s - max)
        float *max = s + MR * SCORES;                                    // [MR], of the scores so far
        float *sum = max + MR;                                           // [MR], of 2^(s - max) so far

        const int64_t needed = end;
        for (int64_t j = 0; j < needed; j += NR)
            pack_columns(keys + j * depth, K + j * k_t, k_t, gptc_min(NR, T - j), D);
        copy_rows(values, width, V, v_t, needed, gptc_round_up(needed, NR), D);

        for (int64_t i0 = first; i0 < end; i0 += MR) {
            const int64_t n = gptc_min(MR, end - i0);
            copy_rows(queries, width, Q + i0 * q_t, q_t, n, MR, D);
            request_rows(Q + (i0 + MR) * q_t, q_t, MR, D);
            request_rows(O + i0 * out_t, out_t, MR, D);
            for (int64_t i = 0; i < MR * width; i++)
                sums[i] = 0;
            for (int64_t i = 0; i < MR; i++) {
                max[i] = -INFINITY;
                sum[i] = 0;
            }

            for (int64_t j0 = 0; j0 < i0 + n; j0 += KEYS) {
                const int64_t seen = visible(i0 + n - 1, j0, T), wide = gptc_round_up(seen, VEC); // by the last query

                // scores = Q K^T
                for (int64_t j = 0; j < seen; j += NR)
                    multiply_tile(s + j, SCORES, 0, queries, width, 1, keys + (j0 + j) * depth, NR, depth);

                for (int64_t i = 0; i < n; i++) {
                    const int64_t here = visible(i0 + i, j0, T);
                    const float factor = softmax_row(s + i * SCORES, here, wide, scale, max + i, sum + i);
                    for (int64_t d = 0; d < width; d++)
                        sums[i * width + d] *= factor;
                }

                // sums += 2^(scores - max) V
                for (int64_t d = 0; d < width; d += NR)
                    multiply_tile(sums + d, width, 1, s, SCORES, 1, values + j0 * width + d, width,
                                  seen);
            }

            for (int64_t i = 0; i < n; i++) {
                for (int64_t d = 0; d < D; d++)
                    O[(i0 + i) * out_t + d] = sums[i * width + d] / sum[i];
                lse[head * T + i0 + i] = 0.693147181f * (max[i] + log2f(sum[i]));
            }
        }
    }
}
