// attention_causal_6d2fa8: 4 calls (2 in step, 2 in evaluate)
//   tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
//   computes  attention
//   moves     16.6 kB, 32.8 kflop in its first call
//   template  templates/c/attention.c.j2
#include "support.h"

// Flash attention (Dao et al. 2022): a block of queries meets the keys block by block, and its softmax is kept up to
// date on the way, so that no T x T matrix exists. A head's keys and values are first copied to where they lie densely:
// in a buffer shared by q, k and v their rows are so far apart that they would compete for a few sets of the L1 cache.
// A thread takes a whole head.

enum {
    BLOCK = 64,   // queries and keys of a block
    MR = 4,       // rows of a register tile
    NR = 2 * VEC, // columns of a register tile
};

// How many keys of the block that begins at j0 query i may see: those at or before it.
static inline int64_t visible(int64_t i, int64_t j0, int64_t T)
{
    return gptc_min(BLOCK, gptc_min(i, T - 1) + 1 - j0);
}

// to[i][d] = from[i][d]; zero for d >= D, and for the rows up to the next multiple of BLOCK.
GPTC_NOINLINE void copy_rows(float *restrict to, int64_t width, const float *restrict from, int64_t stride,
                             int64_t rows, int64_t D)
{
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t d = 0; d < D; d++)
            to[i * width + d] = from[i * stride + d];
        for (int64_t d = D; d < width; d++)
            to[i * width + d] = 0;
    }
    for (int64_t i = rows * width; i < gptc_round_up(rows, BLOCK) * width; i++)
        to[i] = 0;
}

// c[i][j] = (add ? c[i][j] : 0) + sum over k of a(i, k) b[k][j], one MR x NR tile held in registers.
// a(i, k) is a[i * ai + k * ak], so that the same code multiplies by the transpose of a block.
static inline void multiply_tile(float *restrict c, int64_t ldc, int add, const float *restrict a, int64_t ai,
                                 int64_t ak, const float *restrict b, int64_t ldb, int64_t kc)
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

// One row of products, of which n are visible, becomes exp(scale s - max), 0 where hidden; `max` and `sum` of the row
// are updated. Returns exp(old max - new max), the factor for everything summed under the old one.
static float softmax_row(float *restrict s, int64_t n, float scale, float *restrict max, float *restrict sum)
{
    for (int64_t j = 0; j < BLOCK; j++)
        s[j] *= scale;
    for (int64_t j = n; j < BLOCK; j++)
        s[j] = -INFINITY;
    float m = *max;
    #pragma omp simd reduction(max : m)
    for (int64_t j = 0; j < BLOCK; j++)
        m = s[j] > m ? s[j] : m;
    float total = 0;
    #pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < BLOCK; j++) {
        s[j] = gptc_exp(s[j] - m);
        total += s[j];
    }
    const float factor = gptc_exp(*max - m);
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
    const float scale = 0.25;
    const int64_t rows = gptc_round_up(T, BLOCK);
    const int64_t width = gptc_round_up(D, NR);

    #pragma omp parallel for schedule(dynamic)
    for (int64_t head = 0; head < B * H; head++) {
        const int64_t batch = head / H, h = head % H, hk = h / (H / Hkv);
        const float *Q = q + batch * q_b + h * q_h;
        const float *K = k + batch * k_b + hk * k_h;
        const float *V = v + batch * v_b + hk * v_h;
        float *O = out + batch * out_b + h * out_h;

        const int64_t floats = 2 * rows * width + 2 * BLOCK * width + BLOCK * BLOCK + 2 * BLOCK;
        float *values = gptc_scratch(GPTC_PRIVATE, floats * sizeof *values); // [rows][width]
        float *keys = values + rows * width;                                 // [rows / BLOCK][width][BLOCK]
        float *queries = keys + rows * width;                                // [BLOCK][width]
        float *sums = queries + BLOCK * width;                               // [BLOCK][width], exp(s - max) V
        float *s = sums + BLOCK * width;                                     // [BLOCK][BLOCK], scores, then their exp
        float *max = s + BLOCK * BLOCK;                                      // [BLOCK], of the scores so far
        float *sum = max + BLOCK;                                            // [BLOCK], of exp(s - max) so far

        copy_rows(values, width, V, v_t, T, D);
        for (int64_t j0 = 0; j0 < T; j0 += BLOCK)
            gptc_pack_transposed(keys + j0 * width, BLOCK, K + j0 * k_t, k_t, gptc_min(BLOCK, T - j0), D);

        for (int64_t i0 = 0; i0 < T; i0 += BLOCK) {
            const int64_t n = gptc_min(BLOCK, T - i0);
            copy_rows(queries, width, Q + i0 * q_t, q_t, n, D);
            for (int64_t i = 0; i < BLOCK * width; i++)
                sums[i] = 0;
            for (int64_t i = 0; i < BLOCK; i++) {
                max[i] = -INFINITY;
                sum[i] = 0;
            }

            for (int64_t j0 = 0; j0 < i0 + n; j0 += BLOCK) {
                for (int64_t i = 0; i < n; i += MR) {
                    const int64_t seen = visible(i0 + i + MR - 1, j0, T); // by the last query of the tile

                    // scores = Q K^T
                    for (int64_t j = 0; j < seen; j += NR)
                        multiply_tile(s + i * BLOCK + j, BLOCK, 0, queries + i * width, width, 1,
                                      keys + j0 * width + j, BLOCK, D);

                    for (int64_t r = i; r < gptc_min(i + MR, n); r++) {
                        const int64_t here = visible(i0 + r, j0, T);
                        const float factor = softmax_row(s + r * BLOCK, here, scale, max + r, sum + r);
                        for (int64_t d = 0; d < width; d++)
                            sums[r * width + d] *= factor;
                    }

                    // sums += exp(scores - max) V
                    for (int64_t d = 0; d < width; d += NR)
                        multiply_tile(sums + i * width + d, width, 1, s + i * BLOCK, BLOCK, 1,
                                      values + j0 * width + d, width, seen);
                }
            }

            for (int64_t i = 0; i < n; i++) {
                for (int64_t d = 0; d < D; d++)
                    O[(i0 + i) * out_t + d] = sums[i * width + d] / sum[i];
                lse[head * T + i0 + i] = max[i] + logf(sum[i]);
            }
        }
    }
}
