// The words of amx.h in plain C, for processors without AMX.
#ifndef GPTC_AMX_H
#define GPTC_AMX_H

#include <stdint.h>
#include <string.h>

enum { TILE = 16, TILE_ROW = 64 };

#define SOFTWARE static __attribute__((noinline, unused)) // copies would cost compile time

static _Thread_local struct {
    int ready;
    uint32_t row[8][TILE][TILE];
} gptc_tiles;

static inline float gptc_word(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t gptc_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline void gptc_begin_tiles(void)
{
    memset(&gptc_tiles, 0, sizeof gptc_tiles);
    gptc_tiles.ready = 1;
}

static inline void gptc_end_tiles(void)
{
    gptc_tiles.ready = 0;
}

// As on the processor, a tile without a shape is an error.
static inline void gptc_need_tiles(void)
{
    if (!gptc_tiles.ready)
        __builtin_trap();
}

SOFTWARE void gptc_zero(int tile)
{
    gptc_need_tiles();
    memset(gptc_tiles.row[tile], 0, sizeof gptc_tiles.row[tile]);
}

SOFTWARE void gptc_load(int tile, const void *from, int64_t stride)
{
    gptc_need_tiles();
    for (int i = 0; i < TILE; i++)
        memcpy(gptc_tiles.row[tile][i], (const char *)from + i * stride, TILE_ROW);
}

SOFTWARE void gptc_store(int tile, void *to, int64_t stride)
{
    gptc_need_tiles();
    for (int i = 0; i < TILE; i++)
        memcpy((char *)to + i * stride, gptc_tiles.row[tile][i], TILE_ROW);
}

// Products of the first and of the second half of pairs are summed apart, as the processor does.
__attribute__((no_sanitize("address", "undefined")))
SOFTWARE void gptc_multiply(int sum, int a, int b)
{
    gptc_need_tiles();
    for (int i = 0; i < TILE; i++) {
        float first[TILE] = {0}, second[TILE] = {0};
        for (int k = 0; k < TILE; k++) {
            const uint32_t x = gptc_tiles.row[a][i][k];
            for (int j = 0; j < TILE; j++) {
                const uint32_t y = gptc_tiles.row[b][k][j];
                first[j] += gptc_word(x << 16) * gptc_word(y << 16);
                second[j] += gptc_word(x & 0xffff0000u) * gptc_word(y & 0xffff0000u);
            }
        }
        for (int j = 0; j < TILE; j++) {
            uint32_t *at = &gptc_tiles.row[sum][i][j];
            *at = gptc_bits(gptc_word(*at) + (first[j] + second[j]));
        }
    }
}

#define GPTC_ZERO_TILE(tile) gptc_zero(tile)
#define GPTC_LOAD_TILE(tile, from, stride) gptc_load(tile, from, stride)
#define GPTC_STORE_TILE(tile, to, stride) gptc_store(tile, to, stride)
#define GPTC_MULTIPLY_TILES(sum, a, b) gptc_multiply(sum, a, b)

#endif
