// step of tiny, B 2, T 16: 121 kernel calls
#include "kernels.h"
#include "model.h"
#include "offsets.h"

// Where the tensors of this program lie in the arena, in bytes: type, {strides} of a view, first and last call that
// needs it. Those that are never needed together may share memory. `d_x` is the gradient of `x`.
enum {
    positions = 171648,              // i32[T=16], calls 0 to 89
    x_embedding = 114688,            // f32[B=2,T=16,C=32], calls 1 to 3
    x_embedding_1 = 164352,          // f32[T=16,C=32], calls 2 to 3
    x = 114688,                      // f32[B=2,T=16,C=32], calls 3 to 81
    h_0_a = 118784,                  // f32[B=2,T=16,C=32], calls 3 to 79
    h_0_a_mean = 164096,             // f32[B=2,T=16,1], calls 3 to 81
    h_0_a_rstd = 164224,             // f32[B=2,T=16,1], calls 3 to 81
    h_0_q_add = 49152,               // f32[B=2,T=16,96], calls 4 to 73
    h_0_q = 49152,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 5 to 73
    h_0_k = 49280,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 5 to 73
    h_0_v = 49408,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 5 to 73
    h_0_y_matmul = 122880,           // f32[B=2,H=2,T=16,16]{512,16,32,1}, calls 5 to 74
    h_0_y_matmul_lse = 163840,       // f32[B=2,H=2,T=16], calls 5 to 73
    h_0_y_reshape = 122880,          // f32[B=2,T=16,32], calls 6 to 74
    h_0_y = 126976,                  // f32[B=2,T=16,C=32], calls 6 to 66
    h_0_m_layer_norm = 131072,       // f32[B=2,T=16,C=32], calls 7 to 64
    h_0_m_layer_norm_mean = 172096,  // f32[B=2,T=16,1], calls 7 to 66
    h_0_m_layer_norm_rstd = 172224,  // f32[B=2,T=16,1], calls 7 to 66
    h_0_m_add = 32768,               // f32[B=2,T=16,128], calls 8 to 54
    h_0_m = 61440,                   // f32[B=2,T=16,128], calls 8 to 53
    h_0_x = 139264,                  // f32[B=2,T=16,C=32], calls 9 to 52
    h_1_a = 143360,                  // f32[B=2,T=16,C=32], calls 10 to 50
    h_1_a_mean = 170880,             // f32[B=2,T=16,1], calls 10 to 52
    h_1_a_rstd = 171008,             // f32[B=2,T=16,1], calls 10 to 52
    h_1_q_add = 77824,               // f32[B=2,T=16,96], calls 11 to 44
    h_1_q = 77824,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 12 to 44
    h_1_k = 77952,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 12 to 44
    h_1_v = 78080,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 12 to 44
    h_1_y_matmul = 147456,           // f32[B=2,H=2,T=16,16]{512,16,32,1}, calls 12 to 45
    h_1_y_matmul_lse = 170496,       // f32[B=2,H=2,T=16], calls 12 to 44
    h_1_y_reshape = 147456,          // f32[B=2,T=16,32], calls 13 to 45
    h_1_y = 151552,                  // f32[B=2,T=16,C=32], calls 13 to 37
    h_1_m_layer_norm = 155648,       // f32[B=2,T=16,C=32], calls 14 to 35
    h_1_m_layer_norm_mean = 170752,  // f32[B=2,T=16,1], calls 14 to 37
    h_1_m_layer_norm_rstd = 171136,  // f32[B=2,T=16,1], calls 14 to 37
    h_1_m_add = 90112,               // f32[B=2,T=16,128], calls 15 to 26
    h_1_m = 16384,                   // f32[B=2,T=16,128], calls 15 to 25
    h_1_x = 8192,                    // f32[B=2,T=16,C=32], calls 16 to 24
    logits_layer_norm = 12288,       // f32[B=2,T=16,C=32], calls 17 to 22
    logits_layer_norm_mean = 171264, // f32[B=2,T=16,1], calls 17 to 24
    logits_layer_norm_rstd = 171712, // f32[B=2,T=16,1], calls 17 to 24
    logits = 0,                      // f32[B=2,T=16,Vp=64], calls 18 to 19
    loss_cross_entropy = 171392,     // f32[B=2,T=16,1], calls 19 to 20
    d_logits = 0,                    // f32[B=2,T=16,Vp=64], calls 19 to 22
    d_logits_layer_norm = 159744,    // f32[B=2,T=16,C=32], calls 21 to 24
    reshape_1 = 0,                   // f32[32,Vp=64], calls 21 to 22
    reshape = 12288,                 // f32[32,C=32], calls 18 to 22
    d_wte_1 = 106496,                // f32[Vp=64,C=32], calls 22 to 82
    d_h_1_x = 135168,                // f32[B=2,T=16,C=32], calls 23 to 36
    d_ln_f_w = 171520,               // f32[C=32], calls 24 to 119
    d_ln_f_b = 171392,               // f32[C=32], calls 24 to 120
    reshape_3 = 135168,              // f32[32,C=32], calls 25 to 36
    reshape_2 = 16384,               // f32[32,128], calls 16 to 25
    d_h_1_fc_proj_w = 0,             // f32[C=32,128], calls 25 to 117
    d_h_1_m_add = 90112,             // f32[B=2,T=16,128], calls 26 to 35
    h_1_fc_proj_w_squares = 173120,  // f32[], calls 27 to 91
    ln_f_w_squares = 173184,         // f32[], calls 28 to 91
    ln_f_b_squares = 173248,         // f32[], calls 29 to 91
    d_h_1_fc_proj_b = 171712,        // f32[C=32], calls 30 to 118
    h_1_fc_proj_b_squares = 173312,  // f32[], calls 31 to 91
    d_h_1_fc_b = 169984,             // f32[128], calls 32 to 116
    h_1_fc_b_squares = 173376,       // f32[], calls 33 to 91
    d_h_1_m_layer_norm = 159744,     // f32[B=2,T=16,C=32], calls 34 to 37
    reshape_5 = 90112,               // f32[32,128], calls 27 to 35
    reshape_4 = 155648,              // f32[32,C=32], calls 15 to 35
    d_h_1_fc_w = 16384,              // f32[128,C=32], calls 35 to 115
    d_h_1_y = 135168,                // f32[B=2,T=16,C=32], calls 36 to 51
    d_h_1_ln_2_w = 171968,           // f32[C=32], calls 37 to 113
    d_h_1_ln_2_b = 171840,           // f32[C=32], calls 37 to 114
    h_1_ln_2_w_squares = 173440,     // f32[], calls 38 to 91
    h_1_ln_2_b_squares = 173504,     // f32[], calls 39 to 91
    h_1_fc_w_squares = 173568,       // f32[], calls 40 to 91
    d_h_1_proj_b = 172352,           // f32[C=32], calls 41 to 112
    h_1_proj_b_squares = 173632,     // f32[], calls 42 to 91
    d_h_1_y_reshape = 164352,        // f32[B=2,T=16,C=32], calls 43 to 44
    d_h_1_y_matmul = 164352,         // f32[B=2,H=2,T=16,16]{512,16,32,1}, calls 44 to 44
    d_h_1_q_qkv = 151552,            // f32[B=2,T=16,96], calls 44 to 50
    reshape_7 = 135168,              // f32[32,C=32], calls 38 to 51
    reshape_6 = 147456,              // f32[32,32], calls 13 to 45
    d_h_1_proj_w = 165888,           // f32[C=32,32], calls 45 to 111
    h_1_proj_w_squares = 173696,     // f32[], calls 46 to 91
    d_h_1_qkv_b = 170496,            // f32[96], calls 47 to 110
    h_1_qkv_b_squares = 173760,      // f32[], calls 48 to 91
    d_h_1_a = 147456,                // f32[B=2,T=16,C=32], calls 49 to 52
    reshape_13 = 151552,             // f32[32,96], calls 46 to 50
    reshape_12 = 143360,             // f32[32,C=32], calls 11 to 50
    d_h_1_qkv_w = 94208,             // f32[96,C=32], calls 50 to 109
    d_h_0_x = 135168,                // f32[B=2,T=16,C=32], calls 51 to 65
    d_h_1_ln_1_w = 172608,           // f32[C=32], calls 52 to 107
    d_h_1_ln_1_b = 172480,           // f32[C=32], calls 52 to 108
    reshape_15 = 135168,             // f32[32,C=32], calls 53 to 65
    reshape_14 = 61440,              // f32[32,128], calls 9 to 53
    d_h_0_fc_proj_w = 77824,         // f32[C=32,128], calls 53 to 105
    d_h_0_m_add = 32768,             // f32[B=2,T=16,128], calls 54 to 64
    h_0_fc_proj_w_squares = 173824,  // f32[], calls 55 to 91
    h_1_ln_1_w_squares = 173888,     // f32[], calls 56 to 91
    h_1_ln_1_b_squares = 173952,     // f32[], calls 57 to 91
    h_1_qkv_w_squares = 174016,      // f32[], calls 58 to 91
    d_h_0_fc_proj_b = 172736,        // f32[C=32], calls 59 to 106
    h_0_fc_proj_b_squares = 174080,  // f32[], calls 60 to 91
    d_h_0_fc_b = 170880,             // f32[128], calls 61 to 104
    h_0_fc_b_squares = 174144,       // f32[], calls 62 to 91
    d_h_0_m_layer_norm = 139264,     // f32[B=2,T=16,C=32], calls 63 to 66
    reshape_17 = 32768,              // f32[32,128], calls 55 to 64
    reshape_16 = 131072,             // f32[32,C=32], calls 8 to 64
    d_h_0_fc_w = 61440,              // f32[128,C=32], calls 64 to 103
    d_h_0_y = 135168,                // f32[B=2,T=16,C=32], calls 65 to 80
    d_h_0_ln_2_w = 172992,           // f32[C=32], calls 66 to 101
    d_h_0_ln_2_b = 172864,           // f32[C=32], calls 66 to 102
    h_0_ln_2_w_squares = 174208,     // f32[], calls 67 to 91
    h_0_ln_2_b_squares = 174272,     // f32[], calls 68 to 91
    h_0_fc_w_squares = 174336,       // f32[], calls 69 to 91
    d_h_0_proj_b = 172096,           // f32[C=32], calls 70 to 100
    h_0_proj_b_squares = 174400,     // f32[], calls 71 to 91
    d_h_0_y_reshape = 126976,        // f32[B=2,T=16,C=32], calls 72 to 73
    d_h_0_y_matmul = 126976,         // f32[B=2,H=2,T=16,16]{512,16,32,1}, calls 73 to 73
    d_h_0_q_qkv = 139264,            // f32[B=2,T=16,96], calls 73 to 79
    reshape_19 = 135168,             // f32[32,C=32], calls 67 to 80
    reshape_18 = 122880,             // f32[32,32], calls 6 to 74
    d_h_0_proj_w = 45056,            // f32[C=32,32], calls 74 to 99
    h_0_proj_w_squares = 53760,      // f32[], calls 75 to 91
    d_h_0_qkv_b = 53248,             // f32[96], calls 76 to 98
    h_0_qkv_b_squares = 53824,       // f32[], calls 77 to 91
    d_h_0_a = 49152,                 // f32[B=2,T=16,C=32], calls 78 to 81
    reshape_25 = 139264,             // f32[32,96], calls 75 to 79
    reshape_24 = 118784,             // f32[32,C=32], calls 4 to 79
    d_h_0_qkv_w = 32768,             // f32[96,C=32], calls 79 to 97
    d_x = 135168,                    // f32[B=2,T=16,C=32], calls 80 to 83
    d_h_0_ln_1_w = 53632,            // f32[C=32], calls 81 to 95
    d_h_0_ln_1_b = 172224,           // f32[C=32], calls 81 to 96
    d_wte = 106496,                  // f32[Vp=64,C=32], calls 82 to 93
    d_x_embedding_1 = 49152,         // f32[T=16,C=32], calls 83 to 89
    wte_squares = 51200,             // f32[], calls 84 to 91
    h_0_ln_1_w_squares = 51264,      // f32[], calls 85 to 91
    h_0_ln_1_b_squares = 51328,      // f32[], calls 86 to 91
    h_0_qkv_w_squares = 51392,       // f32[], calls 87 to 91
    broadcast_to_1 = 114688,         // f32[T=400,C=32], calls 88 to 89
    d_wpe = 114688,                  // f32[T=400,C=32], calls 89 to 94
    wpe_squares = 171648,            // f32[], calls 90 to 91
};

void gptc_step(const struct gptc_memory *m)
{
    void *const params = m->params;
    void *const state = m->state;
    void *const io = m->io;
    void *const arena = m->arena;

    // ----
    map_iota_i32_79d306(arena + positions, 16);
    AFTER(0);

    // ---- x ----------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:28  x: embedding(wte, tokens) + embedding(wpe, positions)
    embedding_cfcd4c(params + wte, io + tokens, arena + x_embedding, 32, 32);
    AFTER(1);
    embedding_cfcd4c(params + wpe, arena + positions, arena + x_embedding_1, 16, 32);
    AFTER(2);

    // ---- h.0 --------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:31  a: layer_norm(x, ln_1.w, ln_1.b)
    row_add_layer_norm_1f723b(arena + x_embedding, arena + x_embedding_1, params + h_0_ln_1_w, params + h_0_ln_1_b,
        arena + x, arena + h_0_a, arena + h_0_a_mean, arena + h_0_a_rstd, 32, 32, 16);
    AFTER(3);
    // tests/system/models/tiny.yaml:32  q, k, v: heads(linear(a, qkv.w, qkv.b), 3, H)
    gemm_nt_add_f93e75(arena + h_0_a, params + h_0_qkv_w, params + h_0_qkv_b, arena + h_0_q_add, 32, 96, 32, 32, 32, 96,
        1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(4);
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    attention_causal_6d2fa8(arena + h_0_q, arena + h_0_k, arena + h_0_v, arena + h_0_y_matmul, arena + h_0_y_matmul_lse,
        2, 2, 2, 16, 16, 1536, 16, 96, 1536, 16, 96, 1536, 16, 96, 512, 16, 32);
    AFTER(5);
    gemm_nt_add_079bd1(arena + h_0_y_reshape, params + h_0_proj_w, params + h_0_proj_b, arena + x, arena + h_0_y, 32,
        32, 32, 32, 32, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(6);
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    row_layer_norm_bda0ce(arena + h_0_y, params + h_0_ln_2_w, params + h_0_ln_2_b, arena + h_0_m_layer_norm,
        arena + h_0_m_layer_norm_mean, arena + h_0_m_layer_norm_rstd, 32, 32);
    AFTER(7);
    gemm_nt_add_gelu_63dffe(arena + h_0_m_layer_norm, params + h_0_fc_w, params + h_0_fc_b, arena + h_0_m_add,
        arena + h_0_m, 32, 128, 32, 32, 32, 128, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(8);
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    gemm_nt_add_079bd1(arena + h_0_m, params + h_0_fc_proj_w, params + h_0_fc_proj_b, arena + h_0_y, arena + h_0_x, 32,
        32, 128, 128, 128, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(9);

    // ---- h.1 --------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:31  a: layer_norm(x, ln_1.w, ln_1.b)
    row_layer_norm_bda0ce(arena + h_0_x, params + h_1_ln_1_w, params + h_1_ln_1_b, arena + h_1_a, arena + h_1_a_mean,
        arena + h_1_a_rstd, 32, 32);
    AFTER(10);
    // tests/system/models/tiny.yaml:32  q, k, v: heads(linear(a, qkv.w, qkv.b), 3, H)
    gemm_nt_add_f93e75(arena + h_1_a, params + h_1_qkv_w, params + h_1_qkv_b, arena + h_1_q_add, 32, 96, 32, 32, 32, 96,
        1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(11);
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    attention_causal_6d2fa8(arena + h_1_q, arena + h_1_k, arena + h_1_v, arena + h_1_y_matmul, arena + h_1_y_matmul_lse,
        2, 2, 2, 16, 16, 1536, 16, 96, 1536, 16, 96, 1536, 16, 96, 512, 16, 32);
    AFTER(12);
    gemm_nt_add_079bd1(arena + h_1_y_reshape, params + h_1_proj_w, params + h_1_proj_b, arena + h_0_x, arena + h_1_y,
        32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(13);
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    row_layer_norm_bda0ce(arena + h_1_y, params + h_1_ln_2_w, params + h_1_ln_2_b, arena + h_1_m_layer_norm,
        arena + h_1_m_layer_norm_mean, arena + h_1_m_layer_norm_rstd, 32, 32);
    AFTER(14);
    gemm_nt_add_gelu_63dffe(arena + h_1_m_layer_norm, params + h_1_fc_w, params + h_1_fc_b, arena + h_1_m_add,
        arena + h_1_m, 32, 128, 32, 32, 32, 128, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(15);
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    gemm_nt_add_079bd1(arena + h_1_m, params + h_1_fc_proj_w, params + h_1_fc_proj_b, arena + h_1_y, arena + h_1_x, 32,
        32, 128, 128, 128, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(16);

    // ---- logits -----------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:37  logits: linear(layer_norm(x, ln_f.w, ln_f.b), wte)
    row_layer_norm_bda0ce(arena + h_1_x, params + ln_f_w, params + ln_f_b, arena + logits_layer_norm,
        arena + logits_layer_norm_mean, arena + logits_layer_norm_rstd, 32, 32);
    AFTER(17);
    gemm_nt_369ad8(arena + logits_layer_norm, params + wte, arena + logits, 32, 64, 32, 32, 32, 64, 1, 1, 0, 0, 0, 0, 0,
        0);
    AFTER(18);

    // ---- d loss -----------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:38  loss: cross_entropy(logits, targets)
    row_cross_entropy_cross_entropy_grad_94ffb2(arena + logits, io + targets, arena + loss_cross_entropy,
        arena + d_logits, 32, 64);
    AFTER(19);

    // ---- loss -------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:38  loss: cross_entropy(logits, targets)
    column_reduce_mean_23ce1b(arena + loss_cross_entropy, io + loss, 1, 32);
    AFTER(20);

    // ---- d logits ---------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:37  logits: linear(layer_norm(x, ln_f.w, ln_f.b), wte)
    gemm_nn_1cd19a(arena + d_logits, params + wte, arena + d_logits_layer_norm, 32, 32, 64, 64, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(21);
    gemm_tn_2f83ea(arena + reshape_1, arena + reshape, arena + d_wte_1, 64, 32, 32, 64, 32, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(22);
    row_layer_norm_grad_1ac139(arena + d_logits_layer_norm, arena + h_1_x, params + ln_f_w,
        arena + logits_layer_norm_mean, arena + logits_layer_norm_rstd, arena + d_h_1_x, 32, 32);
    AFTER(23);
    column_sub_mul_reduce_sum_e6bea3(arena + h_1_x, arena + logits_layer_norm_mean, arena + logits_layer_norm_rstd,
        arena + d_logits_layer_norm, arena + d_ln_f_w, arena + d_ln_f_b, 32, 32);
    AFTER(24);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    gemm_tn_2f83ea(arena + reshape_3, arena + reshape_2, arena + d_h_1_fc_proj_w, 32, 128, 32, 32, 128, 128, 1, 1, 0, 0,
        0, 0, 0, 0);
    AFTER(25);
    gemm_nn_gelu_grad_10f9dc(arena + d_h_1_x, params + h_1_fc_proj_w, arena + h_1_m_add, arena + d_h_1_m_add, 32, 128,
        32, 32, 128, 128, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(26);

    // ---- update h.1.fc_proj.w ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    sum_squares_85acae(arena + d_h_1_fc_proj_w, arena + h_1_fc_proj_w_squares, 4096);
    AFTER(27);

    // ---- update ln_f.w ----------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:25  ln_f: {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_ln_f_w, arena + ln_f_w_squares, 32);
    AFTER(28);

    // ---- update ln_f.b ----------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:25  ln_f: {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_ln_f_b, arena + ln_f_b_squares, 32);
    AFTER(29);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    column_reduce_sum_5af40a(arena + d_h_1_x, arena + d_h_1_fc_proj_b, 32, 32);
    AFTER(30);

    // ---- update h.1.fc_proj.b ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    sum_squares_85acae(arena + d_h_1_fc_proj_b, arena + h_1_fc_proj_b_squares, 32);
    AFTER(31);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    column_reduce_sum_5af40a(arena + d_h_1_m_add, arena + d_h_1_fc_b, 32, 128);
    AFTER(32);

    // ---- update h.1.fc.b --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    sum_squares_85acae(arena + d_h_1_fc_b, arena + h_1_fc_b_squares, 128);
    AFTER(33);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    gemm_nn_1cd19a(arena + d_h_1_m_add, params + h_1_fc_w, arena + d_h_1_m_layer_norm, 32, 32, 128, 128, 32, 32, 1, 1,
        0, 0, 0, 0, 0, 0);
    AFTER(34);
    gemm_tn_2f83ea(arena + reshape_5, arena + reshape_4, arena + d_h_1_fc_w, 128, 32, 32, 128, 32, 32, 1, 1, 0, 0, 0, 0,
        0, 0);
    AFTER(35);
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    row_layer_norm_grad_add_7887ed(arena + d_h_1_m_layer_norm, arena + h_1_y, params + h_1_ln_2_w,
        arena + h_1_m_layer_norm_mean, arena + h_1_m_layer_norm_rstd, arena + d_h_1_x, arena + d_h_1_y, 32, 32);
    AFTER(36);
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    column_sub_mul_reduce_sum_e6bea3(arena + h_1_y, arena + h_1_m_layer_norm_mean, arena + h_1_m_layer_norm_rstd,
        arena + d_h_1_m_layer_norm, arena + d_h_1_ln_2_w, arena + d_h_1_ln_2_b, 32, 32);
    AFTER(37);

    // ---- update h.1.ln_2.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_1_ln_2_w, arena + h_1_ln_2_w_squares, 32);
    AFTER(38);

    // ---- update h.1.ln_2.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_1_ln_2_b, arena + h_1_ln_2_b_squares, 32);
    AFTER(39);

    // ---- update h.1.fc.w --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    sum_squares_85acae(arena + d_h_1_fc_w, arena + h_1_fc_w_squares, 4096);
    AFTER(40);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    column_reduce_sum_5af40a(arena + d_h_1_y, arena + d_h_1_proj_b, 32, 32);
    AFTER(41);

    // ---- update h.1.proj.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    sum_squares_85acae(arena + d_h_1_proj_b, arena + h_1_proj_b_squares, 32);
    AFTER(42);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    gemm_nn_1cd19a(arena + d_h_1_y, params + h_1_proj_w, arena + d_h_1_y_reshape, 32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(43);
    attention_causal_grad_69034e(arena + d_h_1_y_matmul, arena + h_1_q, arena + h_1_k, arena + h_1_v,
        arena + h_1_y_matmul, arena + h_1_y_matmul_lse, arena + d_h_1_q_qkv + 0, arena + d_h_1_q_qkv + 128,
        arena + d_h_1_q_qkv + 256, 2, 2, 2, 16, 16, 512, 16, 32, 1536, 16, 96, 1536, 16, 96, 1536, 16, 96, 512, 16, 32,
        1536, 16, 96, 1536, 16, 96, 1536, 16, 96);
    AFTER(44);
    gemm_tn_2f83ea(arena + reshape_7, arena + reshape_6, arena + d_h_1_proj_w, 32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0, 0,
        0, 0);
    AFTER(45);

    // ---- update h.1.proj.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    sum_squares_85acae(arena + d_h_1_proj_w, arena + h_1_proj_w_squares, 1024);
    AFTER(46);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:32  q, k, v: heads(linear(a, qkv.w, qkv.b), 3, H)
    column_reduce_sum_5af40a(arena + d_h_1_q_qkv, arena + d_h_1_qkv_b, 32, 96);
    AFTER(47);

    // ---- update h.1.qkv.b -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    sum_squares_85acae(arena + d_h_1_qkv_b, arena + h_1_qkv_b_squares, 96);
    AFTER(48);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:32  q, k, v: heads(linear(a, qkv.w, qkv.b), 3, H)
    gemm_nn_1cd19a(arena + d_h_1_q_qkv, params + h_1_qkv_w, arena + d_h_1_a, 32, 32, 96, 96, 32, 32, 1, 1, 0, 0, 0, 0,
        0, 0);
    AFTER(49);
    gemm_tn_2f83ea(arena + reshape_13, arena + reshape_12, arena + d_h_1_qkv_w, 96, 32, 32, 96, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(50);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    row_layer_norm_grad_add_7887ed(arena + d_h_1_a, arena + h_0_x, params + h_1_ln_1_w, arena + h_1_a_mean,
        arena + h_1_a_rstd, arena + d_h_1_y, arena + d_h_0_x, 32, 32);
    AFTER(51);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:31  a: layer_norm(x, ln_1.w, ln_1.b)
    column_sub_mul_reduce_sum_e6bea3(arena + h_0_x, arena + h_1_a_mean, arena + h_1_a_rstd, arena + d_h_1_a,
        arena + d_h_1_ln_1_w, arena + d_h_1_ln_1_b, 32, 32);
    AFTER(52);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    gemm_tn_2f83ea(arena + reshape_15, arena + reshape_14, arena + d_h_0_fc_proj_w, 32, 128, 32, 32, 128, 128, 1, 1, 0,
        0, 0, 0, 0, 0);
    AFTER(53);
    gemm_nn_gelu_grad_10f9dc(arena + d_h_0_x, params + h_0_fc_proj_w, arena + h_0_m_add, arena + d_h_0_m_add, 32, 128,
        32, 32, 128, 128, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(54);

    // ---- update h.0.fc_proj.w ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    sum_squares_85acae(arena + d_h_0_fc_proj_w, arena + h_0_fc_proj_w_squares, 4096);
    AFTER(55);

    // ---- update h.1.ln_1.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_1_ln_1_w, arena + h_1_ln_1_w_squares, 32);
    AFTER(56);

    // ---- update h.1.ln_1.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_1_ln_1_b, arena + h_1_ln_1_b_squares, 32);
    AFTER(57);

    // ---- update h.1.qkv.w -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    sum_squares_85acae(arena + d_h_1_qkv_w, arena + h_1_qkv_w_squares, 3072);
    AFTER(58);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    column_reduce_sum_5af40a(arena + d_h_0_x, arena + d_h_0_fc_proj_b, 32, 32);
    AFTER(59);

    // ---- update h.0.fc_proj.b ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    sum_squares_85acae(arena + d_h_0_fc_proj_b, arena + h_0_fc_proj_b_squares, 32);
    AFTER(60);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    column_reduce_sum_5af40a(arena + d_h_0_m_add, arena + d_h_0_fc_b, 32, 128);
    AFTER(61);

    // ---- update h.0.fc.b --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    sum_squares_85acae(arena + d_h_0_fc_b, arena + h_0_fc_b_squares, 128);
    AFTER(62);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    gemm_nn_1cd19a(arena + d_h_0_m_add, params + h_0_fc_w, arena + d_h_0_m_layer_norm, 32, 32, 128, 128, 32, 32, 1, 1,
        0, 0, 0, 0, 0, 0);
    AFTER(63);
    gemm_tn_2f83ea(arena + reshape_17, arena + reshape_16, arena + d_h_0_fc_w, 128, 32, 32, 128, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(64);
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    row_layer_norm_grad_add_7887ed(arena + d_h_0_m_layer_norm, arena + h_0_y, params + h_0_ln_2_w,
        arena + h_0_m_layer_norm_mean, arena + h_0_m_layer_norm_rstd, arena + d_h_0_x, arena + d_h_0_y, 32, 32);
    AFTER(65);
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    column_sub_mul_reduce_sum_e6bea3(arena + h_0_y, arena + h_0_m_layer_norm_mean, arena + h_0_m_layer_norm_rstd,
        arena + d_h_0_m_layer_norm, arena + d_h_0_ln_2_w, arena + d_h_0_ln_2_b, 32, 32);
    AFTER(66);

    // ---- update h.0.ln_2.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_0_ln_2_w, arena + h_0_ln_2_w_squares, 32);
    AFTER(67);

    // ---- update h.0.ln_2.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_0_ln_2_b, arena + h_0_ln_2_b_squares, 32);
    AFTER(68);

    // ---- update h.0.fc.w --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    sum_squares_85acae(arena + d_h_0_fc_w, arena + h_0_fc_w_squares, 4096);
    AFTER(69);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    column_reduce_sum_5af40a(arena + d_h_0_y, arena + d_h_0_proj_b, 32, 32);
    AFTER(70);

    // ---- update h.0.proj.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    sum_squares_85acae(arena + d_h_0_proj_b, arena + h_0_proj_b_squares, 32);
    AFTER(71);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    gemm_nn_1cd19a(arena + d_h_0_y, params + h_0_proj_w, arena + d_h_0_y_reshape, 32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(72);
    attention_causal_grad_69034e(arena + d_h_0_y_matmul, arena + h_0_q, arena + h_0_k, arena + h_0_v,
        arena + h_0_y_matmul, arena + h_0_y_matmul_lse, arena + d_h_0_q_qkv + 0, arena + d_h_0_q_qkv + 128,
        arena + d_h_0_q_qkv + 256, 2, 2, 2, 16, 16, 512, 16, 32, 1536, 16, 96, 1536, 16, 96, 1536, 16, 96, 512, 16, 32,
        1536, 16, 96, 1536, 16, 96, 1536, 16, 96);
    AFTER(73);
    gemm_tn_2f83ea(arena + reshape_19, arena + reshape_18, arena + d_h_0_proj_w, 32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(74);

    // ---- update h.0.proj.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    sum_squares_85acae(arena + d_h_0_proj_w, arena + h_0_proj_w_squares, 1024);
    AFTER(75);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:32  q, k, v: heads(linear(a, qkv.w, qkv.b), 3, H)
    column_reduce_sum_5af40a(arena + d_h_0_q_qkv, arena + d_h_0_qkv_b, 32, 96);
    AFTER(76);

    // ---- update h.0.qkv.b -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    sum_squares_85acae(arena + d_h_0_qkv_b, arena + h_0_qkv_b_squares, 96);
    AFTER(77);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:32  q, k, v: heads(linear(a, qkv.w, qkv.b), 3, H)
    gemm_nn_1cd19a(arena + d_h_0_q_qkv, params + h_0_qkv_w, arena + d_h_0_a, 32, 32, 96, 96, 32, 32, 1, 1, 0, 0, 0, 0,
        0, 0);
    AFTER(78);
    gemm_tn_2f83ea(arena + reshape_25, arena + reshape_24, arena + d_h_0_qkv_w, 96, 32, 32, 96, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(79);

    // ---- d x --------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:28  x: embedding(wte, tokens) + embedding(wpe, positions)
    row_layer_norm_grad_add_7887ed(arena + d_h_0_a, arena + x, params + h_0_ln_1_w, arena + h_0_a_mean,
        arena + h_0_a_rstd, arena + d_h_0_y, arena + d_x, 32, 32);
    AFTER(80);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:31  a: layer_norm(x, ln_1.w, ln_1.b)
    column_sub_mul_reduce_sum_e6bea3(arena + x, arena + h_0_a_mean, arena + h_0_a_rstd, arena + d_h_0_a,
        arena + d_h_0_ln_1_w, arena + d_h_0_ln_1_b, 32, 32);
    AFTER(81);

    // ---- d wte ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:15  wte: {shape: [V, C], init: normal(0.02), pad: {V: 64}}
    scatter_add_c4bc81(arena + d_wte_1, io + tokens, arena + d_x, arena + d_wte, 64, 32, 32);
    AFTER(82);

    // ---- d x --------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:28  x: embedding(wte, tokens) + embedding(wpe, positions)
    column_reduce_sum_5af40a(arena + d_x, arena + d_x_embedding_1, 2, 512);
    AFTER(83);

    // ---- update wte -------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:15  wte: {shape: [V, C], init: normal(0.02), pad: {V: 64}}
    sum_squares_85acae(arena + d_wte, arena + wte_squares, 2048);
    AFTER(84);

    // ---- update h.0.ln_1.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_0_ln_1_w, arena + h_0_ln_1_w_squares, 32);
    AFTER(85);

    // ---- update h.0.ln_1.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_0_ln_1_b, arena + h_0_ln_1_b_squares, 32);
    AFTER(86);

    // ---- update h.0.qkv.w -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    sum_squares_85acae(arena + d_h_0_qkv_w, arena + h_0_qkv_w_squares, 3072);
    AFTER(87);

    // ---- d x --------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:28  x: embedding(wte, tokens) + embedding(wpe, positions)
    map_broadcast_to_b98622(arena + broadcast_to_1, 12800);
    AFTER(88);
    scatter_add_c4bc81(arena + broadcast_to_1, arena + positions, arena + d_x_embedding_1, arena + d_wpe, 400, 16, 32);
    AFTER(89);

    // ---- update wpe -------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:16  wpe: {shape: [T, C], init: normal(0.02)}
    sum_squares_85acae(arena + d_wpe, arena + wpe_squares, 12800);
    AFTER(90);

    // ---- clip -------------------------------------------------------------------------------------------
    global_norm_d5ce63((const float *const[]){arena + wte_squares, arena + wpe_squares, arena + h_0_ln_1_w_squares,
        arena + h_0_ln_1_b_squares, arena + h_0_qkv_w_squares, arena + h_0_qkv_b_squares, arena + h_0_proj_w_squares,
        arena + h_0_proj_b_squares, arena + h_0_ln_2_w_squares, arena + h_0_ln_2_b_squares, arena + h_0_fc_w_squares,
        arena + h_0_fc_b_squares, arena + h_0_fc_proj_w_squares, arena + h_0_fc_proj_b_squares,
        arena + h_1_ln_1_w_squares, arena + h_1_ln_1_b_squares, arena + h_1_qkv_w_squares, arena + h_1_qkv_b_squares,
        arena + h_1_proj_w_squares, arena + h_1_proj_b_squares, arena + h_1_ln_2_w_squares, arena + h_1_ln_2_b_squares,
        arena + h_1_fc_w_squares, arena + h_1_fc_b_squares, arena + h_1_fc_proj_w_squares,
        arena + h_1_fc_proj_b_squares, arena + ln_f_w_squares, arena + ln_f_b_squares}, io + norm, 28);
    AFTER(91);
    map_clip_scale_skip_above_cdf525(io + norm, io + max_norm, io + loss, io + max_loss, io + clip_scale, 1);
    AFTER(92);

    // ---- update wte -------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:15  wte: {shape: [V, C], init: normal(0.02), pad: {V: 64}}
    adamw_decay_1df11b(params + wte, arena + d_wte, state + wte_m, state + wte_v, io + lr, io + step, io + clip_scale,
        params + wte, state + wte_m, state + wte_v, 2048);
    AFTER(93);

    // ---- update wpe -------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:16  wpe: {shape: [T, C], init: normal(0.02)}
    adamw_decay_1df11b(params + wpe, arena + d_wpe, state + wpe_m, state + wpe_v, io + lr, io + step, io + clip_scale,
        params + wpe, state + wpe_m, state + wpe_v, 12800);
    AFTER(94);

    // ---- update h.0.ln_1.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + h_0_ln_1_w, arena + d_h_0_ln_1_w, state + h_0_ln_1_w_m, state + h_0_ln_1_w_v, io + lr,
        io + step, io + clip_scale, params + h_0_ln_1_w, state + h_0_ln_1_w_m, state + h_0_ln_1_w_v, 32);
    AFTER(95);

    // ---- update h.0.ln_1.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + h_0_ln_1_b, arena + d_h_0_ln_1_b, state + h_0_ln_1_b_m, state + h_0_ln_1_b_v, io + lr,
        io + step, io + clip_scale, params + h_0_ln_1_b, state + h_0_ln_1_b_m, state + h_0_ln_1_b_v, 32);
    AFTER(96);

    // ---- update h.0.qkv.w -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    adamw_decay_1df11b(params + h_0_qkv_w, arena + d_h_0_qkv_w, state + h_0_qkv_w_m, state + h_0_qkv_w_v, io + lr,
        io + step, io + clip_scale, params + h_0_qkv_w, state + h_0_qkv_w_m, state + h_0_qkv_w_v, 3072);
    AFTER(97);

    // ---- update h.0.qkv.b -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    adamw_6ba8a4(params + h_0_qkv_b, arena + d_h_0_qkv_b, state + h_0_qkv_b_m, state + h_0_qkv_b_v, io + lr, io + step,
        io + clip_scale, params + h_0_qkv_b, state + h_0_qkv_b_m, state + h_0_qkv_b_v, 96);
    AFTER(98);

    // ---- update h.0.proj.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    adamw_decay_1df11b(params + h_0_proj_w, arena + d_h_0_proj_w, state + h_0_proj_w_m, state + h_0_proj_w_v, io + lr,
        io + step, io + clip_scale, params + h_0_proj_w, state + h_0_proj_w_m, state + h_0_proj_w_v, 1024);
    AFTER(99);

    // ---- update h.0.proj.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    adamw_6ba8a4(params + h_0_proj_b, arena + d_h_0_proj_b, state + h_0_proj_b_m, state + h_0_proj_b_v, io + lr,
        io + step, io + clip_scale, params + h_0_proj_b, state + h_0_proj_b_m, state + h_0_proj_b_v, 32);
    AFTER(100);

    // ---- update h.0.ln_2.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + h_0_ln_2_w, arena + d_h_0_ln_2_w, state + h_0_ln_2_w_m, state + h_0_ln_2_w_v, io + lr,
        io + step, io + clip_scale, params + h_0_ln_2_w, state + h_0_ln_2_w_m, state + h_0_ln_2_w_v, 32);
    AFTER(101);

    // ---- update h.0.ln_2.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + h_0_ln_2_b, arena + d_h_0_ln_2_b, state + h_0_ln_2_b_m, state + h_0_ln_2_b_v, io + lr,
        io + step, io + clip_scale, params + h_0_ln_2_b, state + h_0_ln_2_b_m, state + h_0_ln_2_b_v, 32);
    AFTER(102);

    // ---- update h.0.fc.w --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    adamw_decay_1df11b(params + h_0_fc_w, arena + d_h_0_fc_w, state + h_0_fc_w_m, state + h_0_fc_w_v, io + lr,
        io + step, io + clip_scale, params + h_0_fc_w, state + h_0_fc_w_m, state + h_0_fc_w_v, 4096);
    AFTER(103);

    // ---- update h.0.fc.b --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    adamw_6ba8a4(params + h_0_fc_b, arena + d_h_0_fc_b, state + h_0_fc_b_m, state + h_0_fc_b_v, io + lr, io + step,
        io + clip_scale, params + h_0_fc_b, state + h_0_fc_b_m, state + h_0_fc_b_v, 128);
    AFTER(104);

    // ---- update h.0.fc_proj.w ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    adamw_decay_1df11b(params + h_0_fc_proj_w, arena + d_h_0_fc_proj_w, state + h_0_fc_proj_w_m,
        state + h_0_fc_proj_w_v, io + lr, io + step, io + clip_scale, params + h_0_fc_proj_w, state + h_0_fc_proj_w_m,
        state + h_0_fc_proj_w_v, 4096);
    AFTER(105);

    // ---- update h.0.fc_proj.b ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    adamw_6ba8a4(params + h_0_fc_proj_b, arena + d_h_0_fc_proj_b, state + h_0_fc_proj_b_m, state + h_0_fc_proj_b_v,
        io + lr, io + step, io + clip_scale, params + h_0_fc_proj_b, state + h_0_fc_proj_b_m, state + h_0_fc_proj_b_v,
        32);
    AFTER(106);

    // ---- update h.1.ln_1.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + h_1_ln_1_w, arena + d_h_1_ln_1_w, state + h_1_ln_1_w_m, state + h_1_ln_1_w_v, io + lr,
        io + step, io + clip_scale, params + h_1_ln_1_w, state + h_1_ln_1_w_m, state + h_1_ln_1_w_v, 32);
    AFTER(107);

    // ---- update h.1.ln_1.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + h_1_ln_1_b, arena + d_h_1_ln_1_b, state + h_1_ln_1_b_m, state + h_1_ln_1_b_v, io + lr,
        io + step, io + clip_scale, params + h_1_ln_1_b, state + h_1_ln_1_b_m, state + h_1_ln_1_b_v, 32);
    AFTER(108);

    // ---- update h.1.qkv.w -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    adamw_decay_1df11b(params + h_1_qkv_w, arena + d_h_1_qkv_w, state + h_1_qkv_w_m, state + h_1_qkv_w_v, io + lr,
        io + step, io + clip_scale, params + h_1_qkv_w, state + h_1_qkv_w_m, state + h_1_qkv_w_v, 3072);
    AFTER(109);

    // ---- update h.1.qkv.b -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    adamw_6ba8a4(params + h_1_qkv_b, arena + d_h_1_qkv_b, state + h_1_qkv_b_m, state + h_1_qkv_b_v, io + lr, io + step,
        io + clip_scale, params + h_1_qkv_b, state + h_1_qkv_b_m, state + h_1_qkv_b_v, 96);
    AFTER(110);

    // ---- update h.1.proj.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    adamw_decay_1df11b(params + h_1_proj_w, arena + d_h_1_proj_w, state + h_1_proj_w_m, state + h_1_proj_w_v, io + lr,
        io + step, io + clip_scale, params + h_1_proj_w, state + h_1_proj_w_m, state + h_1_proj_w_v, 1024);
    AFTER(111);

    // ---- update h.1.proj.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    adamw_6ba8a4(params + h_1_proj_b, arena + d_h_1_proj_b, state + h_1_proj_b_m, state + h_1_proj_b_v, io + lr,
        io + step, io + clip_scale, params + h_1_proj_b, state + h_1_proj_b_m, state + h_1_proj_b_v, 32);
    AFTER(112);

    // ---- update h.1.ln_2.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + h_1_ln_2_w, arena + d_h_1_ln_2_w, state + h_1_ln_2_w_m, state + h_1_ln_2_w_v, io + lr,
        io + step, io + clip_scale, params + h_1_ln_2_w, state + h_1_ln_2_w_m, state + h_1_ln_2_w_v, 32);
    AFTER(113);

    // ---- update h.1.ln_2.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + h_1_ln_2_b, arena + d_h_1_ln_2_b, state + h_1_ln_2_b_m, state + h_1_ln_2_b_v, io + lr,
        io + step, io + clip_scale, params + h_1_ln_2_b, state + h_1_ln_2_b_m, state + h_1_ln_2_b_v, 32);
    AFTER(114);

    // ---- update h.1.fc.w --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    adamw_decay_1df11b(params + h_1_fc_w, arena + d_h_1_fc_w, state + h_1_fc_w_m, state + h_1_fc_w_v, io + lr,
        io + step, io + clip_scale, params + h_1_fc_w, state + h_1_fc_w_m, state + h_1_fc_w_v, 4096);
    AFTER(115);

    // ---- update h.1.fc.b --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    adamw_6ba8a4(params + h_1_fc_b, arena + d_h_1_fc_b, state + h_1_fc_b_m, state + h_1_fc_b_v, io + lr, io + step,
        io + clip_scale, params + h_1_fc_b, state + h_1_fc_b_m, state + h_1_fc_b_v, 128);
    AFTER(116);

    // ---- update h.1.fc_proj.w ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    adamw_decay_1df11b(params + h_1_fc_proj_w, arena + d_h_1_fc_proj_w, state + h_1_fc_proj_w_m,
        state + h_1_fc_proj_w_v, io + lr, io + step, io + clip_scale, params + h_1_fc_proj_w, state + h_1_fc_proj_w_m,
        state + h_1_fc_proj_w_v, 4096);
    AFTER(117);

    // ---- update h.1.fc_proj.b ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    adamw_6ba8a4(params + h_1_fc_proj_b, arena + d_h_1_fc_proj_b, state + h_1_fc_proj_b_m, state + h_1_fc_proj_b_v,
        io + lr, io + step, io + clip_scale, params + h_1_fc_proj_b, state + h_1_fc_proj_b_m, state + h_1_fc_proj_b_v,
        32);
    AFTER(118);

    // ---- update ln_f.w ----------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:25  ln_f: {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + ln_f_w, arena + d_ln_f_w, state + ln_f_w_m, state + ln_f_w_v, io + lr, io + step,
        io + clip_scale, params + ln_f_w, state + ln_f_w_m, state + ln_f_w_v, 32);
    AFTER(119);

    // ---- update ln_f.b ----------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:25  ln_f: {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    adamw_6ba8a4(params + ln_f_b, arena + d_ln_f_b, state + ln_f_b_m, state + ln_f_b_v, io + lr, io + step,
        io + clip_scale, params + ln_f_b, state + ln_f_b_m, state + ln_f_b_v, 32);
    AFTER(120);
}
