// column_sub_mul_reduce_sum_e6bea3: 5 calls (5 in step)
//   tests/system/models/tiny.yaml:37  logits: linear(layer_norm(x, ln_f.w, ln_f.b), wte)
//   tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
//   tests/system/models/tiny.yaml:31  a: layer_norm(x, ln_1.w, ln_1.b)
//   computes  sub: y = a - b
//             mul: y = a b
//             reduce_sum: Sum over `axes`, all leading or all trailing ones; `keepdims` leaves them with size 1
//   moves     8.7 kB, 3.1 kflop in its first call
//   template  templates/c/column.c.j2
#include "support.h"

// A work item adds up ROWS rows of COLS columns, in the order of the rows; then the items' sums are added in order.
// Both sizes are fixed: the same bits for any number of threads.
enum {
    ROWS = 256,
    COLS = 64,    // four cache lines of each row
    SMALL = 16384 // elements of a tensor that is not worth waking other threads for
};

void column_sub_mul_reduce_sum_e6bea3(
    const float *a,    // [rows, cols]
    const float *mean, // [rows]
    const float *rstd, // [rows]
    const float *dy,   // [rows, cols]
    float *y2,         // [cols]
    float *dy_out,     // [cols]
    int64_t rows, int64_t cols
)
{
    const int64_t items = (rows + ROWS - 1) / ROWS;
    float *partial = gptc_scratch(GPTC_SHARED, 2 * items * cols * sizeof *partial); // [2, items, cols]

    #pragma omp parallel if (rows * cols > SMALL)
    {
        #pragma omp for collapse(2) schedule(static)
        for (int64_t k = 0; k < items; k++)
            for (int64_t j0 = 0; j0 < cols; j0 += COLS) {
                const int64_t i1 = gptc_min((k + 1) * ROWS, rows);
                const int64_t j1 = gptc_min(j0 + COLS, cols);
                float y2_sum[COLS] = {0};
                float dy_out_sum[COLS] = {0};
                for (int64_t i = k * ROWS; i < i1; i++) {
                    const int64_t at = i * cols;
                    const float mean_i = mean[i];
                    const float rstd_i = rstd[i];
                    #pragma omp simd
                    for (int64_t j = j0; j < j1; j++) {
                        const float dy_j = dy[at + j];
                        y2_sum[j - j0] += dy_j * ((a[at + j] - mean_i) * rstd_i);
                        dy_out_sum[j - j0] += dy_j;
                    }
                }
                for (int64_t j = j0; j < j1; j++) {
                    partial[k * cols + j] = y2_sum[j - j0];
                    partial[(items + k) * cols + j] = dy_out_sum[j - j0];
                }
            }

        #pragma omp for schedule(static)
        for (int64_t j = 0; j < cols; j++) {
            float y2_j = 0;
            float dy_out_j = 0;
            for (int64_t k = 0; k < items; k++) {
                y2_j += partial[k * cols + j];
                dy_out_j += partial[(items + k) * cols + j];
            }
            y2[j] = y2_j;
            dy_out[j] = dy_out_j;
        }
    }
}
