// The words of amx.h in plain C, for processors without AMX. The unit that defines AMX_IN_SOFTWARE has the functions.
#ifndef GPTC_AMX_H
#define GPTC_AMX_H

#include <stdint.h>

enum { TILE = 16, TILE_ROW = 64 };

void gptc_begin_tiles(void);
void gptc_end_tiles(void);
void gptc_zero_tile(int tile);
void gptc_load_tile(int tile, const void *from, int64_t stride);
void gptc_store_tile(int tile, void *to, int64_t stride);
void gptc_multiply_tiles(int sum, int a, int b);

#define GPTC_ZERO_TILE(tile) gptc_zero_tile(tile)
#define GPTC_LOAD_TILE(tile, from, stride) gptc_load_tile(tile, from, stride)
#define GPTC_STORE_TILE(tile, to, stride) gptc_store_tile(tile, to, stride)
#define GPTC_MULTIPLY_TILES(sum, a, b) gptc_multiply_tiles(sum, a, b)

#ifdef AMX_IN_SOFTWARE
#include <string.h>

static _Thread_local int ready;
static _Thread_local uint32_t tiles[8][TILE][TILE];

static inline float number(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// As on the processor, it is an error to use a tile that has no shape.
static inline void need_tiles(void)
{
    if (!ready)
        __builtin_trap();
}

void gptc_begin_tiles(void)
{
    memset(tiles, 0, sizeof tiles);
    ready = 1;
}

void gptc_end_tiles(void)
{
    ready = 0;
}

void gptc_zero_tile(int tile)
{
    need_tiles();
    memset(tiles[tile], 0, sizeof tiles[tile]);
}

void gptc_load_tile(int tile, const void *from, int64_t stride)
{
    need_tiles();
    for (int i = 0; i < TILE; i++)
        memcpy(tiles[tile][i], (const char *)from + i * stride, TILE_ROW);
}

void gptc_store_tile(int tile, void *to, int64_t stride)
{
    need_tiles();
    for (int i = 0; i < TILE; i++)
        memcpy((char *)to + i * stride, tiles[tile][i], TILE_ROW);
}

// Products of the first and of the second numbers of pairs are summed apart, as the processor does.
__attribute__((no_sanitize("address", "undefined"))) // nothing here could overrun, and it is most of the time
void gptc_multiply_tiles(int sum, int a, int b)
{
    need_tiles();
    for (int i = 0; i < TILE; i++) {
        float first[TILE] = {0}, second[TILE] = {0};
        for (int k = 0; k < TILE; k++) {
            const uint32_t x = tiles[a][i][k];
            for (int j = 0; j < TILE; j++) {
                const uint32_t y = tiles[b][k][j];
                first[j] += number(x << 16) * number(y << 16);
                second[j] += number(x & 0xffff0000u) * number(y & 0xffff0000u);
            }
        }
        for (int j = 0; j < TILE; j++) {
            uint32_t *at = &tiles[sum][i][j];
            *at = bits_of(number(*at) + (first[j] + second[j]));
        }
    }
}
#endif

#endif
