// adamw_decay_1df11b: 10 calls (10 in step)
//   tests/system/models/tiny.yaml:15  wte: {shape: [V, C], init: normal(0.02), pad: {V: 64}}
//   tests/system/models/tiny.yaml:16  wpe: {shape: [T, C], init: normal(0.02)}
//   tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: z ...
//   tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C], ...
//   tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: z ...
//   tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
//   computes  adamw: One step of Adam with decoupled weight decay (Loshchilov and Hutter 2019), bias-corrected: m' =
//               beta1 m + (1 - beta1) g, v' = beta2 v + (1 - beta2) g^2 with g scaled by `scale`; p' = p - lr (mhat /
//               (sqrt(vhat) + eps) + weight_decay p), mhat = m' / (1 - beta1^step), vhat likewise
//   moves     57.4 kB, 41.0 kflop in its first call
//   template  templates/c/adamw.c.j2
#include "support.h"

// Elements per work item. A fixed size: whether an element meets vector or remainder code does not depend on
// the number of threads. Fewer are not worth waking other threads for.
enum { CHUNK = 16384 };

void adamw_decay_1df11b(
    const float *p,                           // [n] parameters
    const float *g,                           // [n] gradients
    const float *m,                           // [n] first moments
    const float *v,                           // [n] second moments
    const float *lr,                          // [] learning rate
    const float *step,                        // [] 1 at the first update
    const float *scale,                       // [] factor on the gradients, for clipping; 0: keep everything as it is
    float *p_out, float *m_out, float *v_out, // [n] each, may be p, m, v
    int64_t n)
{
    const float beta1 = 0.9, beta2 = 0.95, eps = 1e-08;
    const float keep1 = 1.0 - 0.9, keep2 = 1.0 - 0.95;
    // Bias corrections in double: 1 - beta^step loses its digits in float while step is small.
    const float rate = *lr / (1.0 - pow(0.9, *step));
    const float unbias2 = 1.0 / sqrt(1.0 - pow(0.95, *step));
    const float decay = *lr * 0.1;
    const float clip = *scale;
    const int skip = !(clip > 0.0f);

    #pragma omp parallel for schedule(static) if (n > CHUNK)
    for (int64_t i0 = 0; i0 < n; i0 += CHUNK) {
        const int64_t i1 = gptc_min(i0 + CHUNK, n);
        #pragma omp simd
        for (int64_t i = i0; i < i1; i++) {
            const float grad = clip * g[i];
            const float mean = beta1 * m[i] + keep1 * grad;
            const float square = beta2 * v[i] + keep2 * grad * grad;
            const float param = p[i] - (rate * mean / (sqrtf(square) * unbias2 + eps) + decay * p[i]);
            const float kept = skip ? p[i] : param;
            m_out[i] = skip ? m[i] : mean;
            v_out[i] = skip ? v[i] : square;
            p_out[i] = kept;
        }
    }
}
