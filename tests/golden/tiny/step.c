// step of tiny, B 2, T 16: 121 kernel calls
#include "kernels.h"
#include "model.h"
#include "offsets.h"

// Where the tensors of this program lie in the arena. Those that are never needed together may share memory.
enum {
    positions = 166272,              // i32[T=16], calls 0 to 61
    x_embedding = 131072,            // f32[B=2,T=16,C=32], calls 1 to 3
    x_embedding_1 = 0,               // f32[T=16,C=32], calls 2 to 3
    x = 131072,                      // f32[B=2,T=16,C=32], calls 3 to 58
    h_0_a = 135168,                  // f32[B=2,T=16,C=32], calls 3 to 56
    h_0_a_mean = 165248,             // f32[B=2,T=16,1], calls 3 to 58
    h_0_a_rstd = 165376,             // f32[B=2,T=16,1], calls 3 to 58
    h_0_q_add = 94208,               // f32[B=2,T=16,96], calls 4 to 53
    h_0_q = 94208,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 5 to 53
    h_0_k = 94336,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 5 to 53
    h_0_v = 94464,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 5 to 53
    h_0_y_matmul = 139264,           // f32[B=2,H=2,T=16,16]{512,16,32,1}, calls 5 to 53
    h_0_y_matmul_lse = 164352,       // f32[B=2,H=2,T=16], calls 5 to 53
    h_0_y_reshape = 139264,          // f32[B=2,T=16,32], calls 6 to 53
    h_0_y = 114688,                  // f32[B=2,T=16,C=32], calls 6 to 49
    h_0_m_layer_norm = 143360,       // f32[B=2,T=16,C=32], calls 7 to 47
    h_0_m_layer_norm_mean = 165504,  // f32[B=2,T=16,1], calls 7 to 49
    h_0_m_layer_norm_rstd = 165632,  // f32[B=2,T=16,1], calls 7 to 49
    h_0_m_add = 65536,               // f32[B=2,T=16,128], calls 8 to 44
    h_0_m = 49152,                   // f32[B=2,T=16,128], calls 8 to 43
    h_0_x = 147456,                  // f32[B=2,T=16,C=32], calls 9 to 41
    h_1_a = 151552,                  // f32[B=2,T=16,C=32], calls 10 to 39
    h_1_a_mean = 165760,             // f32[B=2,T=16,1], calls 10 to 41
    h_1_a_rstd = 165888,             // f32[B=2,T=16,1], calls 10 to 41
    h_1_q_add = 81920,               // f32[B=2,T=16,96], calls 11 to 36
    h_1_q = 81920,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 12 to 36
    h_1_k = 82048,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 12 to 36
    h_1_v = 82176,                   // f32[B=2,H=2,T=16,16]{1536,16,96,1}, calls 12 to 36
    h_1_y_matmul = 155648,           // f32[B=2,H=2,T=16,16]{512,16,32,1}, calls 12 to 36
    h_1_y_matmul_lse = 164608,       // f32[B=2,H=2,T=16], calls 12 to 36
    h_1_y_reshape = 155648,          // f32[B=2,T=16,32], calls 13 to 36
    h_1_y = 126976,                  // f32[B=2,T=16,C=32], calls 13 to 32
    h_1_m_layer_norm = 159744,       // f32[B=2,T=16,C=32], calls 14 to 30
    h_1_m_layer_norm_mean = 166016,  // f32[B=2,T=16,1], calls 14 to 32
    h_1_m_layer_norm_rstd = 166144,  // f32[B=2,T=16,1], calls 14 to 32
    h_1_m_add = 32768,               // f32[B=2,T=16,128], calls 15 to 27
    h_1_m = 16384,                   // f32[B=2,T=16,128], calls 15 to 26
    h_1_x = 0,                       // f32[B=2,T=16,C=32], calls 16 to 24
    logits_layer_norm = 4096,        // f32[B=2,T=16,C=32], calls 17 to 22
    logits_layer_norm_mean = 165120, // f32[B=2,T=16,1], calls 17 to 24
    logits_layer_norm_rstd = 163840, // f32[B=2,T=16,1], calls 17 to 24
    logits = 106496,                 // f32[B=2,T=16,Vp=64], calls 18 to 19
    loss_cross_entropy = 164864,     // f32[B=2,T=16,1], calls 19 to 20
    d_logits = 106496,               // f32[B=2,T=16,Vp=64], calls 19 to 22
    d_logits_layer_norm = 8192,      // f32[B=2,T=16,C=32], calls 21 to 24
    reshape_1 = 106496,              // f32[32,Vp=64], calls 22 to 22
    reshape = 4096,                  // f32[32,C=32], calls 22 to 22
    d_wte_1 = 118784,                // f32[Vp=64,C=32], calls 22 to 62
    d_h_1_x = 110592,                // f32[B=2,T=16,C=32], calls 23 to 32
    d_ln_f_w = 164992,               // f32[C=32], calls 24 to 119
    d_ln_f_b = 164864,               // f32[C=32], calls 24 to 120
    d_h_1_fc_proj_b = 165120,        // f32[C=32], calls 25 to 118
    reshape_3 = 110592,              // f32[32,C=32], calls 26 to 32
    reshape_2 = 16384,               // f32[32,128], calls 26 to 26
    d_h_1_fc_proj_w = 0,             // f32[C=32,128], calls 26 to 117
    d_h_1_m_add = 32768,             // f32[B=2,T=16,128], calls 27 to 30
    d_h_1_fc_b = 163840,             // f32[128], calls 28 to 116
    d_h_1_m_layer_norm = 106496,     // f32[B=2,T=16,C=32], calls 29 to 32
    reshape_5 = 32768,               // f32[32,128], calls 30 to 30
    reshape_4 = 159744,              // f32[32,C=32], calls 30 to 30
    d_h_1_fc_w = 16384,              // f32[128,C=32], calls 30 to 115
    d_h_1_ln_2_w = 159872,           // f32[C=32], calls 31 to 113
    d_h_1_ln_2_b = 159744,           // f32[C=32], calls 31 to 114
    d_h_1_y = 106496,                // f32[B=2,T=16,C=32], calls 32 to 41
    d_h_1_proj_b = 160000,           // f32[C=32], calls 33 to 112
    d_h_1_y_reshape = 45056,         // f32[B=2,T=16,C=32], calls 34 to 36
    reshape_7 = 106496,              // f32[32,C=32], calls 35 to 41
    reshape_6 = 155648,              // f32[32,32], calls 35 to 36
    d_h_1_proj_w = 126976,           // f32[C=32,32], calls 35 to 111
    d_h_1_y_matmul = 45056,          // f32[B=2,H=2,T=16,16]{512,16,32,1}, calls 36 to 36
    d_h_1_q_qkv = 32768,             // f32[B=2,T=16,96], calls 36 to 39
    d_h_1_qkv_b = 155648,            // f32[96], calls 37 to 110
    d_h_1_a = 110592,                // f32[B=2,T=16,C=32], calls 38 to 41
    reshape_13 = 32768,              // f32[32,96], calls 39 to 39
    reshape_12 = 151552,             // f32[32,C=32], calls 39 to 39
    d_h_1_qkv_w = 81920,             // f32[96,C=32], calls 39 to 109
    d_h_1_ln_1_w = 164736,           // f32[C=32], calls 40 to 107
    d_h_1_ln_1_b = 164608,           // f32[C=32], calls 40 to 108
    d_h_0_x = 110592,                // f32[B=2,T=16,C=32], calls 41 to 49
    d_h_0_fc_proj_b = 152448,        // f32[C=32], calls 42 to 106
    reshape_15 = 110592,             // f32[32,C=32], calls 43 to 49
    reshape_14 = 49152,              // f32[32,128], calls 43 to 43
    d_h_0_fc_proj_w = 32768,         // f32[C=32,128], calls 43 to 105
    d_h_0_m_add = 65536,             // f32[B=2,T=16,128], calls 44 to 47
    d_h_0_fc_b = 151552,             // f32[128], calls 45 to 104
    d_h_0_m_layer_norm = 147456,     // f32[B=2,T=16,C=32], calls 46 to 49
    reshape_17 = 65536,              // f32[32,128], calls 47 to 47
    reshape_16 = 143360,             // f32[32,C=32], calls 47 to 47
    d_h_0_fc_w = 49152,              // f32[128,C=32], calls 47 to 103
    d_h_0_ln_2_w = 152704,           // f32[C=32], calls 48 to 101
    d_h_0_ln_2_b = 152576,           // f32[C=32], calls 48 to 102
    d_h_0_y = 147456,                // f32[B=2,T=16,C=32], calls 49 to 58
    d_h_0_proj_b = 152832,           // f32[C=32], calls 50 to 100
    d_h_0_y_reshape = 143360,        // f32[B=2,T=16,C=32], calls 51 to 53
    reshape_19 = 147456,             // f32[32,C=32], calls 52 to 58
    reshape_18 = 139264,             // f32[32,32], calls 52 to 53
    d_h_0_proj_w = 77824,            // f32[C=32,32], calls 52 to 99
    d_h_0_y_matmul = 143360,         // f32[B=2,H=2,T=16,16]{512,16,32,1}, calls 53 to 53
    d_h_0_q_qkv = 106496,            // f32[B=2,T=16,96], calls 53 to 56
    d_h_0_qkv_b = 152064,            // f32[96], calls 54 to 98
    d_h_0_a = 139264,                // f32[B=2,T=16,C=32], calls 55 to 58
    reshape_25 = 106496,             // f32[32,96], calls 56 to 56
    reshape_24 = 135168,             // f32[32,C=32], calls 56 to 56
    d_h_0_qkv_w = 65536,             // f32[96,C=32], calls 56 to 97
    d_h_0_ln_1_w = 164480,           // f32[C=32], calls 57 to 95
    d_h_0_ln_1_b = 164352,           // f32[C=32], calls 57 to 96
    d_x = 139264,                    // f32[B=2,T=16,C=32], calls 58 to 62
    d_x_embedding_1 = 131072,        // f32[T=16,C=32], calls 59 to 61
    broadcast_to_1 = 94208,          // f32[T=96,C=32], calls 60 to 61
    d_wpe = 94208,                   // f32[T=96,C=32], calls 61 to 94
    d_wte = 118784,                  // f32[Vp=64,C=32], calls 62 to 93
    wte_squares = 152960,            // f32[], calls 63 to 91
    wpe_squares = 153024,            // f32[], calls 64 to 91
    h_0_ln_1_w_squares = 153088,     // f32[], calls 65 to 91
    h_0_ln_1_b_squares = 153152,     // f32[], calls 66 to 91
    h_0_qkv_w_squares = 153216,      // f32[], calls 67 to 91
    h_0_qkv_b_squares = 153280,      // f32[], calls 68 to 91
    h_0_proj_w_squares = 153344,     // f32[], calls 69 to 91
    h_0_proj_b_squares = 153408,     // f32[], calls 70 to 91
    h_0_ln_2_w_squares = 153472,     // f32[], calls 71 to 91
    h_0_ln_2_b_squares = 153536,     // f32[], calls 72 to 91
    h_0_fc_w_squares = 153600,       // f32[], calls 73 to 91
    h_0_fc_b_squares = 153664,       // f32[], calls 74 to 91
    h_0_fc_proj_w_squares = 153728,  // f32[], calls 75 to 91
    h_0_fc_proj_b_squares = 153792,  // f32[], calls 76 to 91
    h_1_ln_1_w_squares = 153856,     // f32[], calls 77 to 91
    h_1_ln_1_b_squares = 153920,     // f32[], calls 78 to 91
    h_1_qkv_w_squares = 153984,      // f32[], calls 79 to 91
    h_1_qkv_b_squares = 154048,      // f32[], calls 80 to 91
    h_1_proj_w_squares = 154112,     // f32[], calls 81 to 91
    h_1_proj_b_squares = 154176,     // f32[], calls 82 to 91
    h_1_ln_2_w_squares = 154240,     // f32[], calls 83 to 91
    h_1_ln_2_b_squares = 154304,     // f32[], calls 84 to 91
    h_1_fc_w_squares = 154368,       // f32[], calls 85 to 91
    h_1_fc_b_squares = 154432,       // f32[], calls 86 to 91
    h_1_fc_proj_w_squares = 154496,  // f32[], calls 87 to 91
    h_1_fc_proj_b_squares = 154560,  // f32[], calls 88 to 91
    ln_f_w_squares = 154624,         // f32[], calls 89 to 91
    ln_f_b_squares = 154688,         // f32[], calls 90 to 91
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
    gemm_nt_add_1c4ac1(arena + h_0_a, params + h_0_qkv_w, params + h_0_qkv_b, arena + h_0_q_add, 32, 96, 32, 32, 32, 96,
        1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(4);
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    attention_causal_6d2fa8(arena + h_0_q, arena + h_0_k, arena + h_0_v, arena + h_0_y_matmul, arena + h_0_y_matmul_lse,
        2, 2, 2, 16, 16, 1536, 16, 96, 1536, 16, 96, 1536, 16, 96, 512, 16, 32);
    AFTER(5);
    gemm_nt_add_0089c5(arena + h_0_y_reshape, params + h_0_proj_w, params + h_0_proj_b, arena + x, arena + h_0_y, 32,
        32, 32, 32, 32, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(6);
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    row_layer_norm_bda0ce(arena + h_0_y, params + h_0_ln_2_w, params + h_0_ln_2_b, arena + h_0_m_layer_norm,
        arena + h_0_m_layer_norm_mean, arena + h_0_m_layer_norm_rstd, 32, 32);
    AFTER(7);
    gemm_nt_add_gelu_0caf94(arena + h_0_m_layer_norm, params + h_0_fc_w, params + h_0_fc_b, arena + h_0_m_add,
        arena + h_0_m, 32, 128, 32, 32, 32, 128, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(8);
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    gemm_nt_add_0089c5(arena + h_0_m, params + h_0_fc_proj_w, params + h_0_fc_proj_b, arena + h_0_y, arena + h_0_x, 32,
        32, 128, 128, 128, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(9);

    // ---- h.1 --------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:31  a: layer_norm(x, ln_1.w, ln_1.b)
    row_layer_norm_bda0ce(arena + h_0_x, params + h_1_ln_1_w, params + h_1_ln_1_b, arena + h_1_a, arena + h_1_a_mean,
        arena + h_1_a_rstd, 32, 32);
    AFTER(10);
    // tests/system/models/tiny.yaml:32  q, k, v: heads(linear(a, qkv.w, qkv.b), 3, H)
    gemm_nt_add_1c4ac1(arena + h_1_a, params + h_1_qkv_w, params + h_1_qkv_b, arena + h_1_q_add, 32, 96, 32, 32, 32, 96,
        1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(11);
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    attention_causal_6d2fa8(arena + h_1_q, arena + h_1_k, arena + h_1_v, arena + h_1_y_matmul, arena + h_1_y_matmul_lse,
        2, 2, 2, 16, 16, 1536, 16, 96, 1536, 16, 96, 1536, 16, 96, 512, 16, 32);
    AFTER(12);
    gemm_nt_add_0089c5(arena + h_1_y_reshape, params + h_1_proj_w, params + h_1_proj_b, arena + h_0_x, arena + h_1_y,
        32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(13);
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    row_layer_norm_bda0ce(arena + h_1_y, params + h_1_ln_2_w, params + h_1_ln_2_b, arena + h_1_m_layer_norm,
        arena + h_1_m_layer_norm_mean, arena + h_1_m_layer_norm_rstd, 32, 32);
    AFTER(14);
    gemm_nt_add_gelu_0caf94(arena + h_1_m_layer_norm, params + h_1_fc_w, params + h_1_fc_b, arena + h_1_m_add,
        arena + h_1_m, 32, 128, 32, 32, 32, 128, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(15);
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    gemm_nt_add_0089c5(arena + h_1_m, params + h_1_fc_proj_w, params + h_1_fc_proj_b, arena + h_1_y, arena + h_1_x, 32,
        32, 128, 128, 128, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(16);

    // ---- logits -----------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:37  logits: linear(layer_norm(x, ln_f.w, ln_f.b), wte)
    row_layer_norm_bda0ce(arena + h_1_x, params + ln_f_w, params + ln_f_b, arena + logits_layer_norm,
        arena + logits_layer_norm_mean, arena + logits_layer_norm_rstd, 32, 32);
    AFTER(17);
    gemm_nt_369b98(arena + logits_layer_norm, params + wte, arena + logits, 32, 64, 32, 32, 32, 64, 1, 1, 0, 0, 0, 0, 0,
        0);
    AFTER(18);

    // ---- d loss -----------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:38  loss: cross_entropy(logits, targets)
    row_cross_entropy_cross_entropy_grad_b75ccb(arena + logits, io + targets, arena + loss_cross_entropy,
        arena + d_logits, 32, 64);
    AFTER(19);

    // ---- loss -------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:38  loss: cross_entropy(logits, targets)
    column_reduce_mean_23ce1b(arena + loss_cross_entropy, io + loss, 1, 32);
    AFTER(20);

    // ---- d logits ---------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:37  logits: linear(layer_norm(x, ln_f.w, ln_f.b), wte)
    gemm_nn_960ede(arena + d_logits, params + wte, arena + d_logits_layer_norm, 32, 32, 64, 64, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(21);
    gemm_tn_6b706a(arena + reshape_1, arena + reshape, arena + d_wte_1, 64, 32, 32, 64, 32, 32, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(22);
    row_layer_norm_grad_1ac139(arena + d_logits_layer_norm, arena + h_1_x, params + ln_f_w,
        arena + logits_layer_norm_mean, arena + logits_layer_norm_rstd, arena + d_h_1_x, 32, 32);
    AFTER(23);
    column_sub_mul_reduce_sum_e3e056(arena + h_1_x, arena + logits_layer_norm_mean, arena + logits_layer_norm_rstd,
        arena + d_logits_layer_norm, arena + d_ln_f_w, arena + d_ln_f_b, 32, 32);
    AFTER(24);

    // ---- d h.1 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    column_reduce_sum_5af40a(arena + d_h_1_x, arena + d_h_1_fc_proj_b, 32, 32);
    AFTER(25);
    gemm_tn_6b706a(arena + reshape_3, arena + reshape_2, arena + d_h_1_fc_proj_w, 32, 128, 32, 32, 128, 128, 1, 1, 0, 0,
        0, 0, 0, 0);
    AFTER(26);
    gemm_nn_gelu_grad_10f9dc(arena + d_h_1_x, params + h_1_fc_proj_w, arena + h_1_m_add, arena + d_h_1_m_add, 32, 128,
        32, 32, 128, 128, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(27);
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    column_reduce_sum_5af40a(arena + d_h_1_m_add, arena + d_h_1_fc_b, 32, 128);
    AFTER(28);
    gemm_nn_960ede(arena + d_h_1_m_add, params + h_1_fc_w, arena + d_h_1_m_layer_norm, 32, 32, 128, 128, 32, 32, 1, 1,
        0, 0, 0, 0, 0, 0);
    AFTER(29);
    gemm_tn_6b706a(arena + reshape_5, arena + reshape_4, arena + d_h_1_fc_w, 128, 32, 32, 128, 32, 32, 1, 1, 0, 0, 0, 0,
        0, 0);
    AFTER(30);
    column_sub_mul_reduce_sum_e3e056(arena + h_1_y, arena + h_1_m_layer_norm_mean, arena + h_1_m_layer_norm_rstd,
        arena + d_h_1_m_layer_norm, arena + d_h_1_ln_2_w, arena + d_h_1_ln_2_b, 32, 32);
    AFTER(31);
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    row_layer_norm_grad_add_7887ed(arena + d_h_1_m_layer_norm, arena + h_1_y, params + h_1_ln_2_w,
        arena + h_1_m_layer_norm_mean, arena + h_1_m_layer_norm_rstd, arena + d_h_1_x, arena + d_h_1_y, 32, 32);
    AFTER(32);
    column_reduce_sum_5af40a(arena + d_h_1_y, arena + d_h_1_proj_b, 32, 32);
    AFTER(33);
    gemm_nn_960ede(arena + d_h_1_y, params + h_1_proj_w, arena + d_h_1_y_reshape, 32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(34);
    gemm_tn_6b706a(arena + reshape_7, arena + reshape_6, arena + d_h_1_proj_w, 32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0, 0,
        0, 0);
    AFTER(35);
    attention_causal_grad_69034e(arena + d_h_1_y_matmul, arena + h_1_q, arena + h_1_k, arena + h_1_v,
        arena + h_1_y_matmul, arena + h_1_y_matmul_lse, arena + d_h_1_q_qkv + 0, arena + d_h_1_q_qkv + 128,
        arena + d_h_1_q_qkv + 256, 2, 2, 2, 16, 16, 512, 16, 32, 1536, 16, 96, 1536, 16, 96, 1536, 16, 96, 512, 16, 32,
        1536, 16, 96, 1536, 16, 96, 1536, 16, 96);
    AFTER(36);
    // tests/system/models/tiny.yaml:32  q, k, v: heads(linear(a, qkv.w, qkv.b), 3, H)
    column_reduce_sum_5af40a(arena + d_h_1_q_qkv, arena + d_h_1_qkv_b, 32, 96);
    AFTER(37);
    gemm_nn_960ede(arena + d_h_1_q_qkv, params + h_1_qkv_w, arena + d_h_1_a, 32, 32, 96, 96, 32, 32, 1, 1, 0, 0, 0, 0,
        0, 0);
    AFTER(38);
    gemm_tn_6b706a(arena + reshape_13, arena + reshape_12, arena + d_h_1_qkv_w, 96, 32, 32, 96, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(39);
    // tests/system/models/tiny.yaml:31  a: layer_norm(x, ln_1.w, ln_1.b)
    column_sub_mul_reduce_sum_e3e056(arena + h_0_x, arena + h_1_a_mean, arena + h_1_a_rstd, arena + d_h_1_a,
        arena + d_h_1_ln_1_w, arena + d_h_1_ln_1_b, 32, 32);
    AFTER(40);

    // ---- d h.0 ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:36  x: y + linear(m, fc_proj.w, fc_proj.b)
    row_layer_norm_grad_add_7887ed(arena + d_h_1_a, arena + h_0_x, params + h_1_ln_1_w, arena + h_1_a_mean,
        arena + h_1_a_rstd, arena + d_h_1_y, arena + d_h_0_x, 32, 32);
    AFTER(41);
    column_reduce_sum_5af40a(arena + d_h_0_x, arena + d_h_0_fc_proj_b, 32, 32);
    AFTER(42);
    gemm_tn_6b706a(arena + reshape_15, arena + reshape_14, arena + d_h_0_fc_proj_w, 32, 128, 32, 32, 128, 128, 1, 1, 0,
        0, 0, 0, 0, 0);
    AFTER(43);
    gemm_nn_gelu_grad_10f9dc(arena + d_h_0_x, params + h_0_fc_proj_w, arena + h_0_m_add, arena + d_h_0_m_add, 32, 128,
        32, 32, 128, 128, 1, 1, 0, 0, 0, 0, 0, 0);
    AFTER(44);
    // tests/system/models/tiny.yaml:35  m: gelu(linear(layer_norm(y, ln_2.w, ln_2.b), fc.w, fc.b))
    column_reduce_sum_5af40a(arena + d_h_0_m_add, arena + d_h_0_fc_b, 32, 128);
    AFTER(45);
    gemm_nn_960ede(arena + d_h_0_m_add, params + h_0_fc_w, arena + d_h_0_m_layer_norm, 32, 32, 128, 128, 32, 32, 1, 1,
        0, 0, 0, 0, 0, 0);
    AFTER(46);
    gemm_tn_6b706a(arena + reshape_17, arena + reshape_16, arena + d_h_0_fc_w, 128, 32, 32, 128, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(47);
    column_sub_mul_reduce_sum_e3e056(arena + h_0_y, arena + h_0_m_layer_norm_mean, arena + h_0_m_layer_norm_rstd,
        arena + d_h_0_m_layer_norm, arena + d_h_0_ln_2_w, arena + d_h_0_ln_2_b, 32, 32);
    AFTER(48);
    // tests/system/models/tiny.yaml:34  y: x + linear(merge_heads(matmul(p, v)), proj.w, proj.b)
    row_layer_norm_grad_add_7887ed(arena + d_h_0_m_layer_norm, arena + h_0_y, params + h_0_ln_2_w,
        arena + h_0_m_layer_norm_mean, arena + h_0_m_layer_norm_rstd, arena + d_h_0_x, arena + d_h_0_y, 32, 32);
    AFTER(49);
    column_reduce_sum_5af40a(arena + d_h_0_y, arena + d_h_0_proj_b, 32, 32);
    AFTER(50);
    gemm_nn_960ede(arena + d_h_0_y, params + h_0_proj_w, arena + d_h_0_y_reshape, 32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(51);
    gemm_tn_6b706a(arena + reshape_19, arena + reshape_18, arena + d_h_0_proj_w, 32, 32, 32, 32, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(52);
    attention_causal_grad_69034e(arena + d_h_0_y_matmul, arena + h_0_q, arena + h_0_k, arena + h_0_v,
        arena + h_0_y_matmul, arena + h_0_y_matmul_lse, arena + d_h_0_q_qkv + 0, arena + d_h_0_q_qkv + 128,
        arena + d_h_0_q_qkv + 256, 2, 2, 2, 16, 16, 512, 16, 32, 1536, 16, 96, 1536, 16, 96, 1536, 16, 96, 512, 16, 32,
        1536, 16, 96, 1536, 16, 96, 1536, 16, 96);
    AFTER(53);
    // tests/system/models/tiny.yaml:32  q, k, v: heads(linear(a, qkv.w, qkv.b), 3, H)
    column_reduce_sum_5af40a(arena + d_h_0_q_qkv, arena + d_h_0_qkv_b, 32, 96);
    AFTER(54);
    gemm_nn_960ede(arena + d_h_0_q_qkv, params + h_0_qkv_w, arena + d_h_0_a, 32, 32, 96, 96, 32, 32, 1, 1, 0, 0, 0, 0,
        0, 0);
    AFTER(55);
    gemm_tn_6b706a(arena + reshape_25, arena + reshape_24, arena + d_h_0_qkv_w, 96, 32, 32, 96, 32, 32, 1, 1, 0, 0, 0,
        0, 0, 0);
    AFTER(56);
    // tests/system/models/tiny.yaml:31  a: layer_norm(x, ln_1.w, ln_1.b)
    column_sub_mul_reduce_sum_e3e056(arena + x, arena + h_0_a_mean, arena + h_0_a_rstd, arena + d_h_0_a,
        arena + d_h_0_ln_1_w, arena + d_h_0_ln_1_b, 32, 32);
    AFTER(57);

    // ---- d x --------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:28  x: embedding(wte, tokens) + embedding(wpe, positions)
    row_layer_norm_grad_add_7887ed(arena + d_h_0_a, arena + x, params + h_0_ln_1_w, arena + h_0_a_mean,
        arena + h_0_a_rstd, arena + d_h_0_y, arena + d_x, 32, 32);
    AFTER(58);
    column_reduce_sum_5af40a(arena + d_x, arena + d_x_embedding_1, 2, 512);
    AFTER(59);
    map_broadcast_to_b98622(arena + broadcast_to_1, 3072);
    AFTER(60);
    scatter_add_c4bc81(arena + broadcast_to_1, arena + positions, arena + d_x_embedding_1, arena + d_wpe, 96, 16, 32);
    AFTER(61);

    // ---- d wte ------------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:15  wte: {shape: [V, C], init: normal(0.02), pad: {V: 64}}
    scatter_add_c4bc81(arena + d_wte_1, io + tokens, arena + d_x, arena + d_wte, 64, 32, 32);
    AFTER(62);

    // ---- update wte -------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:15  wte: {shape: [V, C], init: normal(0.02), pad: {V: 64}}
    sum_squares_85acae(arena + d_wte, arena + wte_squares, 2048);
    AFTER(63);

    // ---- update wpe -------------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:16  wpe: {shape: [T, C], init: normal(0.02)}
    sum_squares_85acae(arena + d_wpe, arena + wpe_squares, 3072);
    AFTER(64);

    // ---- update h.0.ln_1.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_0_ln_1_w, arena + h_0_ln_1_w_squares, 32);
    AFTER(65);

    // ---- update h.0.ln_1.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_0_ln_1_b, arena + h_0_ln_1_b_squares, 32);
    AFTER(66);

    // ---- update h.0.qkv.w -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    sum_squares_85acae(arena + d_h_0_qkv_w, arena + h_0_qkv_w_squares, 3072);
    AFTER(67);

    // ---- update h.0.qkv.b -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    sum_squares_85acae(arena + d_h_0_qkv_b, arena + h_0_qkv_b_squares, 96);
    AFTER(68);

    // ---- update h.0.proj.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    sum_squares_85acae(arena + d_h_0_proj_w, arena + h_0_proj_w_squares, 1024);
    AFTER(69);

    // ---- update h.0.proj.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    sum_squares_85acae(arena + d_h_0_proj_b, arena + h_0_proj_b_squares, 32);
    AFTER(70);

    // ---- update h.0.ln_2.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_0_ln_2_w, arena + h_0_ln_2_w_squares, 32);
    AFTER(71);

    // ---- update h.0.ln_2.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_0_ln_2_b, arena + h_0_ln_2_b_squares, 32);
    AFTER(72);

    // ---- update h.0.fc.w --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    sum_squares_85acae(arena + d_h_0_fc_w, arena + h_0_fc_w_squares, 4096);
    AFTER(73);

    // ---- update h.0.fc.b --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    sum_squares_85acae(arena + d_h_0_fc_b, arena + h_0_fc_b_squares, 128);
    AFTER(74);

    // ---- update h.0.fc_proj.w ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    sum_squares_85acae(arena + d_h_0_fc_proj_w, arena + h_0_fc_proj_w_squares, 4096);
    AFTER(75);

    // ---- update h.0.fc_proj.b ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    sum_squares_85acae(arena + d_h_0_fc_proj_b, arena + h_0_fc_proj_b_squares, 32);
    AFTER(76);

    // ---- update h.1.ln_1.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_1_ln_1_w, arena + h_1_ln_1_w_squares, 32);
    AFTER(77);

    // ---- update h.1.ln_1.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:19  ln_1:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_1_ln_1_b, arena + h_1_ln_1_b_squares, 32);
    AFTER(78);

    // ---- update h.1.qkv.w -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    sum_squares_85acae(arena + d_h_1_qkv_w, arena + h_1_qkv_w_squares, 3072);
    AFTER(79);

    // ---- update h.1.qkv.b -------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:20  qkv:     {w: {shape: [3*C, C], init: normal(0.02)}, b: {shape: [3*C], init: ...
    sum_squares_85acae(arena + d_h_1_qkv_b, arena + h_1_qkv_b_squares, 96);
    AFTER(80);

    // ---- update h.1.proj.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    sum_squares_85acae(arena + d_h_1_proj_w, arena + h_1_proj_w_squares, 1024);
    AFTER(81);

    // ---- update h.1.proj.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:21  proj:    {w: {shape: [C, C], init: normal(0.02 / sqrt(2*L))}, b: {shape: [C ...
    sum_squares_85acae(arena + d_h_1_proj_b, arena + h_1_proj_b_squares, 32);
    AFTER(82);

    // ---- update h.1.ln_2.w ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_1_ln_2_w, arena + h_1_ln_2_w_squares, 32);
    AFTER(83);

    // ---- update h.1.ln_2.b ------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:22  ln_2:    {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_h_1_ln_2_b, arena + h_1_ln_2_b_squares, 32);
    AFTER(84);

    // ---- update h.1.fc.w --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    sum_squares_85acae(arena + d_h_1_fc_w, arena + h_1_fc_w_squares, 4096);
    AFTER(85);

    // ---- update h.1.fc.b --------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:23  fc:      {w: {shape: [4*C, C], init: normal(0.02)}, b: {shape: [4*C], init: ...
    sum_squares_85acae(arena + d_h_1_fc_b, arena + h_1_fc_b_squares, 128);
    AFTER(86);

    // ---- update h.1.fc_proj.w ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    sum_squares_85acae(arena + d_h_1_fc_proj_w, arena + h_1_fc_proj_w_squares, 4096);
    AFTER(87);

    // ---- update h.1.fc_proj.b ---------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:24  fc_proj: {w: {shape: [C, 4*C], init: normal(0.02 / sqrt(2*L))}, b: {shape:  ...
    sum_squares_85acae(arena + d_h_1_fc_proj_b, arena + h_1_fc_proj_b_squares, 32);
    AFTER(88);

    // ---- update ln_f.w ----------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:25  ln_f: {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_ln_f_w, arena + ln_f_w_squares, 32);
    AFTER(89);

    // ---- update ln_f.b ----------------------------------------------------------------------------------
    // tests/system/models/tiny.yaml:25  ln_f: {w: {shape: [C], init: ones}, b: {shape: [C], init: zeros}}
    sum_squares_85acae(arena + d_ln_f_b, arena + ln_f_b_squares, 32);
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
        params + wpe, state + wpe_m, state + wpe_v, 3072);
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
