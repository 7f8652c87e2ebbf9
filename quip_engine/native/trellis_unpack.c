/* A trellis layer as a matrix: float32 or bfloat16, rounded to nearest even, row by row (codebooks/trellis.py). */

#include "trellis_levels.h"

typedef uint32_t words __attribute__((vector_size(64)));
typedef uint16_t halves __attribute__((vector_size(32), aligned(2)));

/* The first ``count`` values of a row of a tile, which all but the last tile has in full. */
INLINE void store(const row *values, void *out, int64_t at, int64_t count, int bfloat)
{
    if (bfloat) {
        words bits;
        memcpy(&bits, values, sizeof bits);
        halves upper = __builtin_convertvector((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, halves);
        memcpy((uint16_t *)out + at, &upper, count < TILE ? 2 * (size_t)count : sizeof upper);
    } else
        memcpy((float *)out + at, values, count < TILE ? 4 * (size_t)count : sizeof *values);
}

INLINE void unpack_row(const trellis_layer *layer, int64_t i, int r, int wraps, int way, void *out, int bfloat)
{
    const row_reader reader = reader_of(r, layer->k, layer->L);
    const uint8_t *tile = tile_at(layer, i, 0);
    const int64_t n = layer->n, start = (TILE * i + r) * n;
    int64_t j = 0;
    for (; j + TILE <= n; j += TILE, tile += 32 * layer->k) {
        row values = times(row_values(layer, tile, r, wraps, way, &reader), layer->scale);
        store(&values, out, start + j, TILE, bfloat);
    }
    if (j < n) {
        row values = times(row_values(layer, tile, r, wraps, way, &reader), layer->scale);
        store(&values, out, start + j, n - j, bfloat);
    }
}

INLINE void unpack(const trellis_layer *layer, int way, void *out, int bfloat, int64_t start, int64_t stop)
{
    for (int64_t i = start; i < stop; i++)
        for (int r = 0; r < TILE && TILE * i + r < layer->m; r++)
            if (r < 4)
                unpack_row(layer, i, r, 1, way, out, bfloat);
            else
                unpack_row(layer, i, r, 0, way, out, bfloat);
}

#ifdef TRELLIS_LEVELS
/* The first ``count`` values of some rows of a tile. */
INLINE void unpack_rows(const trellis_layer *layer, const level_reader *reader, const uint8_t *tile, int quarter,
                        int64_t rows, void *out, int64_t at, int64_t count, int bfloat)
{
    _Alignas(64) int8_t levels[ROWS][TILE];
    const __m512i above = levels_of(mirrored(tile, layer->k), quarter, layer->k, reader);
    _mm512_store_si512(levels, _mm512_xor_si512(above, _mm512_set1_epi8((char)128)));
    for (int r = 0; r < ROWS && r < rows; r++) {
        const __m512i whole = _mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)levels[r]));
        const row values = times(_mm512_cvtepi32_ps(whole), layer->scale);
        store(&values, out, at + r * layer->n, count, bfloat);
    }
}

INLINE void unpack_quarter(const trellis_layer *layer, const level_reader *reader, int64_t i, int quarter, void *out,
                           int bfloat)
{
    const int64_t n = layer->n, first = TILE * i + ROWS * quarter, rows = layer->m - first;
    const uint8_t *tile = tile_at(layer, i, 0);
    int64_t j = 0;
    for (; j + TILE <= n; j += TILE, tile += 32 * layer->k)
        unpack_rows(layer, reader, tile, quarter, rows, out, first * n + j, TILE, bfloat);
    if (j < n)
        unpack_rows(layer, reader, tile, quarter, rows, out, first * n + j, n - j, bfloat);
}

INLINE void unpack_levels(const trellis_layer *layer, void *out, int bfloat, int64_t start, int64_t stop)
{
    const level_reader reader = level_reader_of(layer);
    for (int64_t i = start; i < stop; i++)
        for (int quarter = 0; quarter < QUARTERS; quarter++)
            unpack_quarter(layer, &reader, i, quarter, out, bfloat);
}
#endif

/* out: (m, n) float or, where ``bfloat``, bfloat16, for the rows of tiles start .. stop - 1. */
void trellis_unpack(const uint8_t *codes, int64_t m, int64_t n, int way, int k, int L, const float *table,
                    const float *scale, float unit, void *out, int bfloat, int64_t start, int64_t stop)
{
    const trellis_layer layer = {codes, m, n, way, k, L, table, *scale * unit};
#define CASE(w)                                                                                                        \
    if (way == w && bfloat)                                                                                            \
        unpack(&layer, w, out, 1, start, stop);                                                                        \
    else if (way == w)                                                                                                 \
        unpack(&layer, w, out, 0, start, stop);
    CASE(ONE_EACH)
    CASE(TWO_EACH)
#ifdef TRELLIS_AVX512
    CASE(ONE_MAD)
    CASE(MUL1)
    CASE(THREE_INST)
#endif
#undef CASE
#ifdef TRELLIS_LEVELS
    if (way == LEVELS && bfloat)
        unpack_levels(&layer, out, 1, start, stop);
    else if (way == LEVELS)
        unpack_levels(&layer, out, 0, start, stop);
#endif
}
