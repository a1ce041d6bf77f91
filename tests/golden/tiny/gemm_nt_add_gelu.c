// gemm_nt_add_gelu_5a65ee: 2 calls (2 in evaluate)
//   tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
//   computes  matmul, add, gelu
//   moves     37.4 kB, 340.0 kflop in its first call
//   template  templates/c/matmul.c.j2
#include "support.h"
#include <omp.h>

// ---- blocking --------------------------------------------------------------------------------------
//
// An item of work is a strip of C, up to PANELS panels of NR columns over MC of its rows. Its part of B is packed into
// a private strip, KC values of k at a time, which stays in the L2 cache while the rows of A stream past it straight
// from memory, MR at a time. Only when K exceeds KC are unfinished sums kept, beside the strip.
// The rows of B run along k, so that a panel is packed from long pieces of memory however narrow it is.

enum {
    MR = 4,    // rows of a tile
    NR = 24,   // columns of a tile: MR * NR / VEC accumulators, enough to hide the latency of the FMA
    KC = 1536, // longest run along k; a panel is then KC * NR * 4 bytes
    PANELS = 1,
    MC = 1024, // most rows that share a packed strip
};

// ---- epilogue: from a finished sum to what is stored -----------------------------------------------

struct epilogue {
    const float *b_; // [N]
    float *y1; // [M, N], row stride ldc
    int64_t ldc;
};

GPTC_INLINE void store_element(
    float b_,
    float *y1,
    float acc)
{
    *y1 = gptc_gelu(acc + b_);
}

// The rows m0 .. m0+mr-1 and columns n0 .. n0+nr-1 of the C that begins at element `c0`.
static void store_tile(const struct epilogue *e, const float *sum, int64_t c0, int64_t m0, int64_t n0, int64_t mr,
                       int64_t nr)
{
    for (int64_t i = 0; i < mr; i++) {
        const int64_t at = c0 + (m0 + i) * e->ldc + n0;
        #pragma omp simd
        for (int64_t j = 0; j < nr; j++)
            store_element(
                e->b_[n0 + j],
                &e->y1[at + j],
                sum[i * NR + j]);
    }
}

// ---- packing ---------------------------------------------------------------------------------------

// strip[panel][k][j] = B(k, panel * NR + j) for nc columns of B, cut into panels of NR. Columns past the last repeat
// it: they are computed and never stored.
static void pack_strip(float *restrict strip, const float *restrict b, int64_t ldb, int64_t kc, int64_t nc)
{
    for (int64_t n = 0; n < nc; n += NR)
        gptc_pack_transposed(strip + n * kc, NR, b + n * ldb, ldb, nc - n, kc);
}

// ---- one tile --------------------------------------------------------------------------------------

// sum[i][j] += sum over k of a[i][k] * panel[k][j], or = when `first`. The MR x NR sums stay in registers.
// Rows of A past the last (mr < MR) repeat it: they are computed and never stored.
static void multiply_tile(float *restrict sum, const float *restrict a, int64_t lda, int64_t mr,
                          const float *restrict panel, int64_t kc, int first)
{
    const float *row[MR];
    GPTC_UNROLL
    for (int64_t i = 0; i < MR; i++)
        row[i] = a + gptc_min(i, mr - 1) * lda;
    vf acc[MR][NR / VEC];
    GPTC_UNROLL
    for (int64_t i = 0; i < MR; i++)
        GPTC_UNROLL
        for (int64_t j = 0; j < NR / VEC; j++)
            acc[i][j] = first ? (vf){0} : *(const vf *)(sum + i * NR + j * VEC);
    for (int64_t k = 0; k < kc; k++) {
        vf b[NR / VEC];
        GPTC_UNROLL
        for (int64_t j = 0; j < NR / VEC; j++)
            b[j] = *(const vf *)(panel + k * NR + j * VEC);
        GPTC_UNROLL
        for (int64_t i = 0; i < MR; i++)
            GPTC_UNROLL
            for (int64_t j = 0; j < NR / VEC; j++)
                acc[i][j] += row[i][k] * b[j];
    }
    GPTC_UNROLL
    for (int64_t i = 0; i < MR; i++)
        GPTC_UNROLL
        for (int64_t j = 0; j < NR / VEC; j++)
            *(vf *)(sum + i * NR + j * VEC) = acc[i][j];
}

void gemm_nt_add_gelu_5a65ee(
    const float *a, // [M, K], row stride lda
    const float *b, // [N, K], row stride ldb
    const float *b_, // [N]
    float *y1, // [M, N], row stride ldc
    int64_t M, int64_t N, int64_t K, int64_t lda, int64_t ldb, int64_t ldc,
    int64_t batch0, int64_t batch1, // products; the strides between them follow
    int64_t sa0, int64_t sa1, int64_t sb0, int64_t sb1, int64_t sc0, int64_t sc1)
{
    const struct epilogue e = {b_, y1, ldc};
    const int64_t blocks = (M + MC - 1) / MC;
    const int64_t runs = (K + KC - 1) / KC;
    const int64_t run = (K + runs - 1) / runs; // runs along k of about equal length

    // Strips as wide as leaves each thread two. How C is cut does not show in its bits.
    const int64_t panels = batch0 * batch1 * blocks * ((N + NR - 1) / NR);
    const int64_t share = panels / (2 * omp_get_max_threads());
    const int64_t width = NR * (share < 1 ? 1 : gptc_min(share, PANELS));
    const int64_t strips = (N + width - 1) / width;

    #pragma omp parallel for schedule(dynamic)
    for (int64_t item = 0; item < batch0 * batch1 * blocks * strips; item++) {
        const int64_t batch = item / strips / blocks, i0 = batch / batch1, i1 = batch % batch1;
        const int64_t m0 = item / strips % blocks * MC, mc = gptc_min(MC, M - m0);
        const int64_t n0 = item % strips * width, nc = gptc_min(width, N - n0);
        const float *A = a + i0 * sa0 + i1 * sa1 + m0 * lda;
        const float *B = b + i0 * sb0 + i1 * sb1 + n0 * ldb;
        float *strip = gptc_scratch(GPTC_PRIVATE, (KC + MC) * width * sizeof *strip); // [PANELS][KC][NR]
        float *sums = strip + KC * width;                                             // [PANELS][MC][NR]

        for (int64_t k0 = 0; k0 < K; k0 += run) {
            const int64_t kc = gptc_min(run, K - k0);
            pack_strip(strip, B + k0, ldb, kc, nc);
            for (int64_t n = 0; n < nc; n += NR) {
                for (int64_t m = 0; m < mc; m += MR) {
                    const int64_t mr = gptc_min(MR, mc - m), nr = gptc_min(NR, nc - n);
                    float *sum = runs > 1 ? sums + n * MC + m * NR : sums;
                    multiply_tile(sum, A + m * lda + k0, lda, mr, strip + n * kc, kc, k0 == 0);
                    if (k0 + kc == K)
                        store_tile(&e, sum, i0 * sc0 + i1 * sc1, m0 + m, n0 + n, mr, nr);
                }
            }
        }
    }
}
