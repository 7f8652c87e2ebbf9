/* A layer with outliers, as codebooks/outlier.py stores it: which of a row's weights are outliers, and its levels.

   A weight is levels[code + 2^bits * outlier]. Outliers are marked one block of columns after the other, by 2^bits in a
   byte for each column, which code bytes are joined with. A gap may lead beyond the block, where the mark is carried
   to the next one; so rows may be of any length, and marks never leave the first cache. */

#pragma once

#include "half.h"
#include "packed_codes.h"

enum { TOGETHER = 4 };                          /* symbols */
enum { BLOCK = 4096, BEYOND = 256 * TOGETHER }; /* columns; the longest step of a symbol is 255 */
enum { LEVELS = 32 };                           /* at most */

typedef struct {
    const uint8_t *codes;   /* (m, width) */
    const uint8_t *gaps;    /* (m, gap_width) */
    const uint16_t *levels; /* (m, 2 * 2^bits) float16; or NULL, and */
    const uint16_t *ends;   /* (m, 6) float16 */
    int bits, gap_bits, symbols /* of a row */;
    int64_t m, n, width, gap_width;
} outlier_layer;

/* How far a row's symbols have been read. */
typedef struct {
    int64_t symbol, place; /* the next one; where the last one led */
    uint8_t step[CHUNK], mark[CHUNK], marks[BLOCK + BEYOND];
} outliers;

static inline outlier_layer outlier_layer_of(const uint8_t *codes, const uint8_t *gaps, const uint16_t *levels,
                                             const uint16_t *ends, int bits, int gap_bits, int symbols, int64_t m,
                                             int64_t n)
{
    outlier_layer layer = {codes,   gaps, levels, ends, bits, gap_bits, symbols, m, n, (n * bits + 7) / 8,
                           ((int64_t)symbols * gap_bits + 7) / 8};
    return layer;
}

static inline void no_outliers(const outlier_layer *l, outliers *o)
{
    o->symbol = 0, o->place = -1;
    memset(o->marks, 0, l->n > BLOCK ? sizeof o->marks : (size_t)(l->n + CHUNK - 1) / CHUNK * CHUNK);
}

/* Steps and marks of the next 64 symbols. Behind the last one they go on without a mark. */
static inline void read_symbols(const outlier_layer *l, const expansion *e, int64_t row, outliers *o)
{
    const int64_t at = row * l->gap_width + o->symbol / 8 * l->gap_bits, count = l->symbols - o->symbol;
    const uint8_t last = (uint8_t)((1 << l->gap_bits) - 1), mark = (uint8_t)(1 << l->bits);
    uint8_t symbols[CHUNK];
    unpack_codes(e, l->gaps + at, l->m * l->gap_width - at, symbols);
    for (int i = 0; i < CHUNK; i++) {
        o->step[i] = symbols[i] < last ? symbols[i] + 1 : last;
        o->mark[i] = symbols[i] < last && i < count ? mark : 0;
    }
}

/* Marks of columns start, start + 1, .. of a row; blocks of a row come in order. */
static inline void mark_block(const outlier_layer *l, const expansion *e, int64_t row, int64_t start, outliers *o)
{
    const int64_t stop = start + BLOCK < l->n ? start + BLOCK : l->n;
    if (start) {
        memcpy(o->marks, o->marks + BLOCK, BEYOND);
        memset(o->marks + BEYOND, 0, BLOCK);
    }
    while (o->place < stop && o->symbol < l->symbols) {
        int64_t i = o->symbol % CHUNK, place = o->place - start;
        if (i == 0)
            read_symbols(l, e, row, o);
        for (o->symbol -= i; i < CHUNK && place < stop - start; i += TOGETHER)
            for (int64_t j = i; j < i + TOGETHER; j++) {
                place += o->step[j];
                o->marks[place] = o->mark[j];
            }
        o->place = place + start, o->symbol += i;
    }
}

static inline void even_levels(const uint16_t *ends, int count, float *levels)
{
    const float low = half_to_float(ends[0]), high = half_to_float(ends[1]);
    for (int i = 0; i < count; i++)
        levels[i] = low + (count > 1 ? (float)i / (float)(count - 1) : 0.5f) * (high - low);
}

/* The levels of a row, inliers' first; zeros beyond. */
static inline void levels_of(const outlier_layer *l, int64_t row, float levels[LEVELS])
{
    const int count = 1 << l->bits;
    memset(levels, 0, LEVELS * sizeof(float));
    if (l->levels) {
        for (int i = 0; i < 2 * count; i++)
            levels[i] = half_to_float(l->levels[row * 2 * count + i]);
        return;
    }
    const uint16_t *ends = l->ends + 6 * row;
    even_levels(ends, count, levels);
    even_levels(ends + 2, count / 2, levels + count);
    even_levels(ends + 4, count / 2, levels + count + count / 2);
}

/* Where the codes of a column that 8 divides begin, and how many bytes there are from there on. */
static inline const uint8_t *codes_at(const outlier_layer *l, int64_t row, int64_t column)
{
    return l->codes + row * l->width + (column >> 3) * l->bits;
}

static inline int64_t bytes_left(const outlier_layer *l, int64_t row, int64_t column)
{
    return (l->m - row) * l->width - (column >> 3) * l->bits;
}
