/* Products with the layers of codebooks/published_trellis.py; published_trellis.h says how a tile is decoded.
 *
 * Steps run through t = (d1, d3, d2, d0) with 3, 2, 1, 1 bits; row d0 d1, columns d2 d3 and 0 or 1, the first and the
 * second value. With the numbers of x in the order (d3, d2, d0), the same for both d0, the values of each d1 are
 * multiplied by them one by one and summed over the tiles in this order; what belongs to a row is added at the end.
 */

#include "published_trellis.h"

enum { EACH = STEPS / 8 }; /* steps of one d1 */

const char *published_features(void)
{
#ifdef PUBLISHED_VECTORS
    return "AVX-512 VBMI";
#else
    return "C";
#endif
}

/* spread: (b, columns of tiles, 2, 16) of x: (b, n), zero beyond n. */
void published_spread(const float *x, int64_t b, int64_t n, float *spread)
{
    for (int64_t r = 0; r < b; r++)
        for (int64_t c = 0; c < tiles(n); c++, spread += 2 * EACH)
            for (int64_t i = 0; i < 2 * EACH; i++) { /* i: first or second, d3, d2, d0 */
                const int64_t column = TILE * c + 8 * (i >> 1 & 1) + 2 * (i >> 2 & 3) + (i >> 4);
                spread[i] = column < n ? x[r * n + column] : 0;
            }
}

static inline void add_products(
    const float *restrict first, const float *restrict second, const float *restrict x, float *restrict sums)
{
    for (int64_t t = 0; t < STEPS; t += EACH)
        for (int64_t i = 0; i < EACH; i++)
            sums[t + i] += first[t + i] * x[i] + second[t + i] * x[EACH + i];
}

/* y: (b, m) in the rows of tiles start .. stop - 1; sums: (b, 128). */
void published_multiply(
    const published_layer *a, const float *spread, int64_t b, float *y, float *sums, int64_t start, int64_t stop)
{
    const int64_t across = tiles(a->n);
    decoder d;
    decoder_of(a, &d);
    for (int64_t r = start; r < stop; r++) {
        memset(sums, 0, b * STEPS * sizeof *sums);
        for (int64_t c = 0; c < across; c++) {
            float first[STEPS], second[STEPS];
            decode_tile(&d, a->codes + (r * across + c) * 32 * a->k, a->k, first, second);
            for (int64_t s = 0; s < b; s++)
                add_products(first, second, spread + (s * across + c) * 2 * EACH, sums + s * STEPS);
        }
        for (int64_t s = 0; s < b; s++)
            for (int64_t row = 0; row < TILE && r * TILE + row < a->m; row++) {
                float total = 0;
                for (int64_t i = 0; i < EACH; i += 2)
                    total += sums[s * STEPS + (row & 7) * EACH + (row >> 3) + i];
                y[s * a->m + r * TILE + row] = total * *a->scale;
            }
    }
}

typedef float line __attribute__((vector_size(4 * TILE)));

/* Rows d1 and 8 + d1 of a tile, columns d2 d3 and 0 or 1, from the steps of d1. */
static inline void two_rows(const float *first, const float *second, float scale, line rows[2])
{
    line a, b;
    memcpy(&a, first, sizeof a);
    memcpy(&b, second, sizeof b);
    rows[0] = scale * __builtin_shufflevector(a, b, 0, 16, 4, 20, 8, 24, 12, 28, 2, 18, 6, 22, 10, 26, 14, 30);
    rows[1] = scale * __builtin_shufflevector(a, b, 1, 17, 5, 21, 9, 25, 13, 29, 3, 19, 7, 23, 11, 27, 15, 31);
}

/* W~: whole tiles, (16 rows of tiles, 16 columns of tiles) float or, where `half`, bfloat16. */
void published_unpack(const published_layer *a, void *W, int half, int64_t start, int64_t stop)
{
    const int64_t across = tiles(a->n);
    decoder d;
    decoder_of(a, &d);
    for (int64_t i = start * across; i < stop * across; i++) {
        float first[STEPS], second[STEPS];
        line rows[2];
        decode_tile(&d, a->codes + i * 32 * a->k, a->k, first, second);
        for (int64_t row = 0; row < TILE; row++) {
            const int64_t d1 = row >> 1, d0 = row & 1;
            const int64_t at = ((i / across * TILE + 8 * d0 + d1) * across + i % across) * TILE;
            if (d0 == 0)
                two_rows(first + d1 * EACH, second + d1 * EACH, *a->scale, rows);
            if (half)
                for (int64_t j = 0; j < TILE; j++)
                    ((uint16_t *)W)[at + j] = to_bfloat16(rows[d0][j]);
            else
                memcpy((float *)W + at, &rows[d0], sizeof *rows);
        }
    }
}
