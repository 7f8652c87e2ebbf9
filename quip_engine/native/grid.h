/* A layer of a uniform grid, as codebooks/grid.py stores it. */

#pragma once

#include "half.h"
#include "packed_codes.h"

typedef struct {
    const uint8_t *codes;  /* (m, width) */
    const float *scale;    /* of the whole matrix; or NULL, and */
    const uint16_t *steps; /* (m, groups) float16 */
    const uint8_t *zeros;  /* (m, groups); or NULL: the middle of the grid */
    int bits;
    int64_t m, n, group, width, groups;
} grid;

/* The columns of one group, those in front of it whose codes begin in the same eight, and the chunks of all. */
typedef struct {
    int64_t first, start, stop, chunks;
} span;

static inline grid grid_of(const uint8_t *codes, const float *scale, const uint16_t *steps, const uint8_t *zeros,
                           int bits, int64_t m, int64_t n, int64_t group)
{
    grid g = {codes, scale, steps, zeros, bits, m, n, group, (n * bits + 7) / 8, (n + group - 1) / group};
    return g;
}

static inline span span_of(const grid *g, int64_t k)
{
    int64_t start = k * g->group, stop = start + g->group < g->n ? start + g->group : g->n, first = start & ~7;
    span s = {first, start, stop, (stop - first + CHUNK - 1) / CHUNK};
    return s;
}

static inline float half_range(const grid *g) { return (float)((1 << g->bits) - 1) / 2; }

static inline float step_of(const grid *g, int64_t row, int64_t k)
{
    return g->scale ? *g->scale / half_range(g) : half_to_float(g->steps[row * g->groups + k]);
}

static inline float zero_of(const grid *g, int64_t row, int64_t k)
{
    return g->zeros ? (float)g->zeros[row * g->groups + k] : half_range(g);
}

/* Where the codes of a column that 8 divides begin, and how many bytes there are from there on. */
static inline const uint8_t *codes_at(const grid *g, int64_t row, int64_t column)
{
    return g->codes + row * g->width + (column >> 3) * g->bits;
}

static inline int64_t bytes_left(const grid *g, int64_t row, int64_t column)
{
    return (g->m - row) * g->width - (column >> 3) * g->bits;
}
