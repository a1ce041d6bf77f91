// row_layer_norm_bda0ce: 7 calls (4 in step, 3 in evaluate)
//   tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
//   tests/system/models/tiny.yaml:31  a: layer_norm(x, ln_1.w, ln_1.b)
//   tests/system/models/tiny.yaml:37  logits: linear(layer_norm(x, ln_f.w, ln_f.b), wte)
//   computes  layer_norm: y = (x - mean) rstd w + b with the biased variance (Ba et al. 2016)
//   moves     8.7 kB, 13.3 kflop in its first call
//   template  templates/c/row.c.j2
#include "support.h"

// Elements of a tensor that is not worth waking other threads for.
enum { SMALL = 16384 };

void row_layer_norm_bda0ce(
    const float *x, // [rows, cols]
    const float *w, // [cols]
    const float *b, // [cols]
    float *y,       // [rows, cols]
    float *mean,    // [rows]
    float *rstd,    // [rows]
    int64_t rows, int64_t cols
)
{
    #pragma omp parallel for schedule(static) if (rows * cols > SMALL)
    for (int64_t i = 0; i < rows; i++) {
        const int64_t at = i * cols;
        float mean_i = 0;
        #pragma omp simd reduction(+ : mean_i)
        for (int64_t j = 0; j < cols; j++)
            mean_i += x[at + j];
        mean_i /= cols;

        float mean2 = 0;
        #pragma omp simd reduction(+ : mean2)
        for (int64_t j = 0; j < cols; j++) {
            const float d = x[at + j] - mean_i;
            mean2 += d * d;
        }
        mean2 /= cols;

        const float rstd_i = 1.0f / sqrtf(mean2 + 1e-5f);
        #pragma omp simd
        for (int64_t j = 0; j < cols; j++)
            y[at + j] = (x[at + j] - mean_i) * rstd_i * w[j] + b[j];
        mean[i] = mean_i;
        rstd[i] = rstd_i;
    }
}
