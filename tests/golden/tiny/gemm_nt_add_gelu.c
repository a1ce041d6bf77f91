// gemm_nt_add_gelu_63dffe: 2 calls (2 in step)
//   tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
//   computes  matmul: y = op(a) op(b), where op transposes the last two axes if asked
//             add: y = a + b
//             gelu: Tanh form of GELU (Hendrycks & Gimpel 2016): y = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
//   moves     53.8 kB, 340.0 kflop in its first call
//   template  templates/c/matmul.c.j2
//   tuning    MR 6, NR 16
#include "support.h"
#include <omp.h>

// ---- blocking --------------------------------------------------------------------------------------
//
// The weight, B, is packed and the activations, A, are read where they lie. C is cut into panels of NR columns, and
// each thread has a range of them. For one panel, the part of B that it needs, KC values along k at a time, is packed
// into a private buffer that stays in the L2 cache, while the rows of A stream past it, MR at a time:
//
//                   k                      NR
//            +-------------+             +----+   a tile: MR x NR sums in registers, to which each step along k adds
//         MR |=============|        k    |    |   MR values of A, each times a row of NR values of B
//            |      A      |    x        | B  |
//            |             |             |    |   MR rows of A and the panel pass through the L1 cache
//            +-------------+             +----+
//
// Only when K exceeds KC are unfinished sums kept. Then several panels form a strip, and a thread takes all of
// them through one run along k before the next, so that this part of A comes from memory once.

enum {
    MR = 6,            // rows of a tile
    NR = 16,           // its columns: MR * NR / VEC accumulators, enough to hide the latency of the FMA
    KC = 1024,         // longest run along k; the panel is then 4096 * NR bytes and stays in L2
    PANELS = 384 / NR, // most panels of a strip: unfinished sums of 384 columns, 1.5 MB for MC rows
    MC = 1024,         // most rows that share a packed panel; further ones are work for other threads
    STEP = 16,         // steps along k between two requests for what is packed next
    PACE = 2,          // cache lines that are then requested
    LINE = 64,         // bytes of a cache line
};

// ---- write back: finished sums go through the epilogue to the results --------------------------------

struct epilogue {
    const float *bias; // [N]
    float *y_out;      // [M, N], row stride ldc
    float *y1;         // [M, N], row stride ldc
    int64_t ldc;
};

GPTC_INLINE void store_element(
    float bias,
    float *y_out,
    float *y1,
    float acc)
{
    const float y_ = acc + bias;
    *y_out = y_;
    *y1 = gptc_gelu(y_);
}

// The rows m0 .. m0+mr-1 and columns n0 .. n0+nr-1 of the C that begins at element `c0`.
GPTC_INLINE void store_rows(const struct epilogue *e, const float *sum, int64_t c0, int64_t m0, int64_t n0, int64_t mr,
                            int64_t nr)
{
    for (int64_t i = 0; i < mr; i++) {
        const int64_t at = c0 + (m0 + i) * e->ldc + n0;
        #pragma omp simd
        for (int64_t j = 0; j < nr; j++)
            store_element(
                e->bias[n0 + j],
                &e->y_out[at + j],
                &e->y1[at + j],
                sum[i * NR + j]);
    }
}

// The same; whole rows of a tile, by far the most, need no loop over their columns.
static void store_tile(const struct epilogue *e, const float *sum, int64_t c0, int64_t m0, int64_t n0, int64_t mr,
                       int64_t nr)
{
    if (nr == NR)
        store_rows(e, sum, c0, m0, n0, mr, NR);
    else
        store_rows(e, sum, c0, m0, n0, mr, nr);
}

// ---- pack: the operands in the order in which the micro-kernel reads them ----------------------------

// panel[k][j] = B(k, j) for kc rows and nc <= NR columns of B. Columns past the last repeat it: they are computed and
// never stored.
static void pack_panel(float *restrict panel, const float *restrict b, int64_t ldb, int64_t kc, int64_t nc)
{
    gptc_pack_transposed(panel, NR, b, ldb, nc, kc);
}

// ---- look ahead: cache lines that will be needed, requested while a tile is computed -----------------

// Two things lie in memory, far away: what is packed next, and the places of C that this tile is written to. Both are
// requested while the tile is computed; otherwise a product of few rows spends a tenth of its time waiting. What is
// packed next is requested a few lines at a time, and no earlier than that allows: lines that lie waiting in L2 push
// others out.
struct ahead {
    const char *row;        // of what is packed next: the row whose lines are requested next
    int64_t rows, at;       // rows left, this one included; bytes of this one that have been requested
    int64_t length, stride; // of a row, in bytes
    int64_t wait, pace;     // steps until the first request; lines that each step then requests
    const struct epilogue *e;
    int64_t place, tile_rows; // element of C where the next row of the tile begins; rows left
};

// For all of `rows` rows of `length` elements, ld apart, while so many tiles of kc values along k are computed.
static struct ahead look_ahead(const float *from, int64_t ld, int64_t rows, int64_t length, int64_t tiles,
                               int64_t kc, const struct epilogue *e)
{
    const int64_t size = sizeof *from, lines = rows * ((length * size + LINE - 1) / LINE);
    const int64_t steps = tiles * ((kc + STEP - 1) / STEP);
    const int64_t pace = lines > steps * PACE ? (lines + steps - 1) / steps : PACE;
    const int64_t wait = steps - (lines + pace - 1) / pace;
    return (struct ahead){.row = (const char *)from, .rows = rows, .length = length * size, .stride = ld * size,
                          .wait = wait, .pace = pace, .e = e};
}

// The requests of one step. Those past the end of a row do no harm.
static inline void request(struct ahead *next)
{
    if (next->tile_rows-- > 0) {
        for (int64_t j = next->place; j < next->place + NR; j += LINE / 4) {
            __builtin_prefetch(&next->e->y_out[j], 1); // to be written
            __builtin_prefetch(&next->e->y1[j], 1);    // to be written
        }
        next->place += next->e->ldc;
    }
    if (next->wait-- > 0)
        return;
    for (int64_t line = 0; line < next->pace && next->rows > 0; line++) {
        __builtin_prefetch(next->row + next->at, 0, 2); // to be read, into L2
        next->at += LINE;
        if (next->at >= next->length) {
            next->at = 0;
            next->row += next->stride;
            next->rows--;
        }
    }
}

// ---- micro-kernel: one tile of sums in registers -----------------------------------------------------

// sum[i][j] += sum over k of a[i][k] * panel[k][j], or = when `first`. The MR x NR sums stay in registers.
// Rows of A past the last (mr < MR) repeat it: they are computed and never stored. Of `next`, only cache lines are
// requested.
static void multiply_tile(float *restrict sum, const float *restrict a, int64_t lda, int64_t mr,
                          const float *restrict panel, int64_t kc, int first, struct ahead *next)
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
    for (int64_t from = 0; from < kc; from += STEP) {
        request(next);
        GPTC_UNROLL
        for (int64_t i = 0; i < MR; i++) // a line of each row of the tile below, which comes next
            __builtin_prefetch(row[i] + MR * lda + from, 0, 2);
        const int64_t to = gptc_min(from + STEP, kc);
        for (int64_t k = from; k < to; k++) {
            vf b[NR / VEC];
            GPTC_UNROLL
            for (int64_t j = 0; j < NR / VEC; j++)
                b[j] = *(const vf *)(panel + k * NR + j * VEC);
            GPTC_UNROLL
            for (int64_t i = 0; i < MR; i++) {
                GPTC_UNROLL
                for (int64_t j = 0; j < NR / VEC; j++)
                    acc[i][j] += row[i][k] * b[j];
            }
        }
    }
    GPTC_UNROLL
    for (int64_t i = 0; i < MR; i++)
        GPTC_UNROLL
        for (int64_t j = 0; j < NR / VEC; j++)
            *(vf *)(sum + i * NR + j * VEC) = acc[i][j];
}

// ---- the product: who computes which tiles, and in which order ---------------------------------------

// The items of work in order, a range of them for each thread: what comes next is known and can be requested. A thread
// that is done takes from the ends of the others' ranges, for cores differ, and some are busy with other things. Who
// computes an item does not show in its bits.
struct range {
    int64_t first, count;
    int64_t taken;  // by anyone
    int64_t own;    // of these, from its beginning by its own thread,
    int64_t others; // and from its end by others
    char apart[24]; // each range has a cache line
};

static void divide(struct range *ranges, int64_t threads, int64_t items)
{
    for (int64_t t = 0; t < threads; t++) {
        const int64_t first = items * t / threads, end = items * (t + 1) / threads;
        ranges[t] = (struct range){.first = first, .count = end - first};
    }
}

// The next item for a thread; negative when there is none.
static int64_t next_item(struct range *ranges, int64_t threads, int64_t thread)
{
    for (int64_t i = 0; i < threads; i++) {
        struct range *r = &ranges[(thread + i) % threads];
        if (__atomic_load_n(&r->taken, __ATOMIC_RELAXED) >= r->count ||
            __atomic_fetch_add(&r->taken, 1, __ATOMIC_RELAXED) >= r->count)
            continue;
        if (i == 0)
            return r->first + r->own++;
        return r->first + r->count - 1 - __atomic_fetch_add(&r->others, 1, __ATOMIC_RELAXED);
    }
    return -1;
}

void gemm_nt_add_gelu_63dffe(
    const float *a,    // [M, K], row stride lda
    const float *b,    // [N, K], row stride ldb
    const float *bias, // [N]
    float *y_out,      // [M, N], row stride ldc
    float *y1,         // [M, N], row stride ldc
    int64_t M, int64_t N, int64_t K, int64_t lda, int64_t ldb, int64_t ldc,
    int64_t batch0, int64_t batch1, // products; the strides between them follow
    int64_t sa0, int64_t sa1, int64_t sb0, int64_t sb1, int64_t sc0, int64_t sc1)
{
    const struct epilogue e = {bias, y_out, y1, ldc};
    const int64_t blocks = (M + MC - 1) / MC;
    const int64_t runs = (K + KC - 1) / KC;
    const int64_t run = (K + runs - 1) / runs; // runs along k of about equal length

    // A thread's share of the panels, in strips of equal width. How C is cut does not show in its bits.
    const int64_t panels = batch0 * batch1 * blocks * ((N + NR - 1) / NR), threads = omp_get_max_threads();
    const int64_t share = (panels + threads - 1) / threads, parts = (share + PANELS - 1) / PANELS;
    const int64_t width = NR * (runs > 1 ? (share + parts - 1) / parts : 1);
    const int64_t strips = (N + width - 1) / width;
    const int64_t rows = gptc_round_up(gptc_min(M, MC), MR);

    const int64_t items = batch0 * batch1 * blocks * strips;
    struct range *ranges = gptc_scratch(GPTC_SHARED, threads * sizeof *ranges);
    divide(ranges, threads, items);

    #pragma omp parallel
    for (int64_t item; (item = next_item(ranges, threads, omp_get_thread_num())) >= 0;) {
        const int64_t batch = item / strips / blocks, i0 = batch / batch1, i1 = batch % batch1;
        const int64_t m0 = item / strips % blocks * MC, mc = gptc_min(MC, M - m0);
        const int64_t n0 = item % strips * width, n_end = gptc_min(n0 + width, N);
        const float *A = a + i0 * sa0 + i1 * sa1 + m0 * lda;
        const float *B = b + i0 * sb0 + i1 * sb1;
        // [KC][NR] of B and [width / NR][rows][NR] of sums
        float *panel = gptc_scratch(GPTC_PRIVATE, (KC * NR + width * rows) * sizeof *panel);
        float *sums = panel + KC * NR;

        for (int64_t k0 = 0; k0 < K; k0 += run) {
            const int64_t kc = gptc_min(run, K - k0);
            for (int64_t n = n0; n < n_end; n += NR) {
                const int64_t nr = gptc_min(NR, N - n);
                pack_panel(panel, B + n * ldb + k0, ldb, kc, nr);

                // Next comes the panel beside this one or, at the end of a strip, the next run of its first one.
                const int turn = runs > 1 && n + NR >= n_end;
                const int64_t n1 = turn ? n0 : n + NR, k1 = turn ? k0 + run : k0;
                const int64_t nr1 = gptc_min(NR, N - n1), kc1 = gptc_min(run, K - k1);
                struct ahead next = look_ahead(B + n1 * ldb + k1, ldb, nr1, kc1, (mc + MR - 1) / MR, kc, &e);
                for (int64_t m = 0; m < mc; m += MR) {
                    const int64_t mr = gptc_min(MR, mc - m);
                    float *sum = sums + (runs > 1 ? (n - n0) * rows + m * NR : 0);
                    if (k0 + kc == K) {
                        next.place = i0 * sc0 + i1 * sc1 + (m0 + m) * ldc + n;
                        next.tile_rows = mr;
                    }
                    multiply_tile(sum, A + m * lda + k0, lda, mr, panel, kc, k0 == 0, &next);
                    if (k0 + kc == K)
                        store_tile(&e, sum, i0 * sc0 + i1 * sc1, m0 + m, n, mr, nr);
                }
            }
        }
    }
}
