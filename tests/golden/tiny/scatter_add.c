// scatter_add_c4bc81: 2 calls (2 in step)
//   tests/system/models/tiny.yaml:15  wte: {shape: [V, C], init: normal(0.02), pad: {V: 64}}
//   tests/system/models/tiny.yaml:28  x: embedding(wte, tokens) + embedding(wpe, positions)
//   computes  scatter_add: y = base with dy[i, :] added to row ids[i], in order of i; sums are in f32 or wider
//   moves     12.4 kB, 1.0 kflop in its first call
//   template  templates/c/scatter_add.c.j2
#include "support.h"

// Columns that one thread adds at a time: four cache lines. Threads own columns, not rows, because ids repeat:
// every element then receives its terms in the order of i, whatever the number of threads.
enum { COLS = 64 };

void scatter_add_c4bc81(
    const float *base,           // [V, cols]
    const int32_t *restrict ids, // [rows], each in 0 .. V-1
    const float *restrict dy,    // [rows, cols]
    float *result,               // [V, cols], may be base itself
    int64_t V, int64_t rows, int64_t cols)
{
    #pragma omp parallel
    {
        if (result != base) {
            #pragma omp for schedule(static)
            for (int64_t i = 0; i < V; i++)
                for (int64_t j = 0; j < cols; j++)
                    result[i * cols + j] = base[i * cols + j];
        }
        #pragma omp for schedule(static)
        for (int64_t j0 = 0; j0 < cols; j0 += COLS) {
            const int64_t j1 = gptc_min(j0 + COLS, cols);
            for (int64_t i = 0; i < rows; i++) {
                float *to = result + ids[i] * cols;
                const float *from = dy + i * cols;
                #pragma omp simd
                for (int64_t j = j0; j < j1; j++)
                    to[j] += from[j];
            }
        }
    }
}
