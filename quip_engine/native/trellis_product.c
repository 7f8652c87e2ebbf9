/* Products of a few rows of x with a trellis layer, decoded on the way: y = x W^T (codebooks/trellis.py).

   Some rows of W are gone along together, so that their sums and those of a few rows of x stay in registers. Each sum
   is one over 16 lanes of columns, in order of tiles, whoever works on what else. Where pairs are looked up, one row of
   x goes along a whole tile: then codes come into the first cache once, and leave it to the table. */

#include "trellis_states.h"

enum { MOST = 4 }; /* rows of x */

/* ``rows`` rows of W from r on in row i of its tiles, b rows of x: (b, width). */
INLINE void rows_of_tiles(const trellis_layer *layer, int64_t i, int r, int rows, int wraps, int way, const float *x,
                          int64_t width, int b, float *y)
{
    const row_reader reader = reader_of(r, layer->k, layer->L);
    const uint8_t *tile = tile_at(layer, i, 0);
    row sums[TILE][MOST];
    memset(sums, 0, sizeof sums);
    for (int64_t j = 0; j < width; j += TILE, tile += 32 * layer->k)
#pragma GCC unroll 16
        for (int at = 0; at < rows; at++) {
            row values = row_values(layer, tile, wraps ? at : r + at, wraps, way, &reader);
            for (int c = 0; c < b; c++)
                sums[at][c] = plus_product(sums[at][c], values, x + c * width + j);
        }
    for (int at = 0; at < rows && TILE * i + r + at < layer->m; at++)
        for (int c = 0; c < b; c++)
            y[c * layer->m + TILE * i + r + at] = layer->scale * total_of(sums[at][c]);
}

INLINE void one_row_of_tiles(const trellis_layer *layer, int64_t i, int way, const float *x, int64_t width, int b,
                             float *y)
{
    const int rows = b > 1 || way == ONE_EACH ? 4 : way == TWO_EACH ? TILE : 8;
    rows_of_tiles(layer, i, 0, rows, 1, way, x, width, b, y);
    for (int r = rows; r < TILE; r += rows)
        rows_of_tiles(layer, i, r, rows, 0, way, x, width, b, y);
}

INLINE void product(const trellis_layer *layer, int way, const float *x, int64_t b, float *y, int64_t start,
                    int64_t stop)
{
    const int64_t width = TILE * tiles_of(layer->n);
    for (int64_t i = start; i < stop; i++) {
        int64_t c = 0;
        for (; b - c >= MOST; c += MOST)
            one_row_of_tiles(layer, i, way, x + c * width, width, MOST, y + c * layer->m);
        for (; c < b; c++)
            one_row_of_tiles(layer, i, way, x + c * width, width, 1, y + c * layer->m);
    }
}

/* y: (b, m) of x: (b, 16 ceil(n / 16)), zero beyond n, for the rows of tiles start .. stop - 1. */
void trellis_product(const uint8_t *codes, int64_t m, int64_t n, int way, int k, int L, const float *table,
                     const float *scale, float unit, const float *x, int64_t b, float *y, int64_t start, int64_t stop)
{
    trellis_layer layer = {codes, m, n, way, k, L, table, *scale * unit};
#define CASE(bits)                                                                                                     \
    if (way == TWO_EACH && k == bits) {                                                                                \
        layer.k = bits;                                                                                                \
        product(&layer, TWO_EACH, x, b, y, start, stop);                                                               \
    }
    CASE(1)
    CASE(2)
    CASE(3)
    CASE(4)
#undef CASE
    if (way == ONE_EACH)
        product(&layer, ONE_EACH, x, b, y, start, stop);
#ifdef TRELLIS_AVX512
    if (way == ONE_MAD)
        product(&layer, ONE_MAD, x, b, y, start, stop);
    else if (way == MUL1)
        product(&layer, MUL1, x, b, y, start, stop);
    else if (way == THREE_INST)
        product(&layer, THREE_INST, x, b, y, start, stop);
#endif
}

/* What computed codes run on; empty where they are looked up, too. */
const char *trellis_features(void)
{
#ifdef TRELLIS_AVX512
    return "AVX-512 VNNI";
#else
    return "";
#endif
}
