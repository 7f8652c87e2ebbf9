/* Products of a few rows of x, as 8-bit integers, with a trellis layer of code 1mad or mul1.

   Their value is affine in the sum of the bytes of a word, and ``vpdpbusd`` multiplies the four bytes of each word by
   those of another and adds up: with x_j in all four, that is the sum times x_j. So a row of a tile is one instruction
   from its words to its 16 products, and no weight is ever formed:

       y = unit scale (sum_l scale_l sum_j bytes_j q_j - mean sum_l scale_l sum_j q_j)        x_j = scale_l q_j

   A lane l of a group of four tiles adds up four columns in integers, and has a scale of its own: so 8 bits lose .3 %.
   That mul1 rounds its values to float16 is left out, .02 %. */

#include "trellis_states.h"

#ifdef TRELLIS_AVX512

#include <math.h>

enum { GROUP = 4, MOST = 4 }; /* tiles, rows of x */

typedef struct {
    int8_t q[GROUP][TILE][4]; /* each four times */
    float scale[TILE];
} activations;

INLINE int64_t groups_of(int64_t n) { return (tiles_of(n) + GROUP - 1) / GROUP; }

int64_t trellis_int8_bytes(int64_t n) { return groups_of(n) * (int64_t)sizeof(activations); }

/* groups: (groups_of(n),) of one row of x: (16 ceil(n / 16),), zero beyond n. Returns sum_l scale_l sum_j q_j. */
static float lay_out(const float *x, int64_t n, activations *groups)
{
    double total = 0;
    for (int64_t g = 0; g < groups_of(n); g++, x += GROUP * TILE) {
        __m512 here[GROUP], largest = _mm512_setzero_ps();
        for (int j = 0; j < GROUP; j++) {
            here[j] = GROUP * g + j < tiles_of(n) ? _mm512_loadu_ps(x + TILE * j) : _mm512_setzero_ps();
            largest = _mm512_max_ps(largest, _mm512_abs_ps(here[j]));
        }
        __m512 scale = _mm512_div_ps(largest, _mm512_set1_ps(127));
        __mmask16 some = _mm512_cmp_ps_mask(largest, _mm512_setzero_ps(), _CMP_GT_OQ);
        __m512 inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(127), largest);
        __m512i sum = _mm512_setzero_si512();
        for (int j = 0; j < GROUP; j++) {
            __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(here[j], inverse));
            __m512i low = _mm512_and_si512(q, _mm512_set1_epi32(255));
            _mm512_storeu_si512(groups[g].q[j], _mm512_mullo_epi32(low, _mm512_set1_epi32(0x01010101)));
            sum = _mm512_add_epi32(sum, q);
        }
        _mm512_storeu_ps(groups[g].scale, scale);
        total += _mm512_reduce_add_ps(_mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum)));
    }
    return (float)total;
}

/* x: (b, groups_of(n)) and behind it total: (b,), from x: (b, 16 ceil(n / 16)). */
void trellis_int8_lay_out(const float *x, int64_t n, int64_t b, activations *groups)
{
    float *total = (float *)(groups + b * groups_of(n));
    for (int64_t c = 0; c < b; c++)
        total[c] = lay_out(x + c * TILE * tiles_of(n), n, groups + c * groups_of(n));
}

INLINE void rows_of_tiles(const trellis_layer *layer, int64_t i, int r, int rows, int wraps, int way,
                          const activations *x, const float *offset, int b, float *y)
{
    const int64_t tiles = tiles_of(layer->n), groups = groups_of(layer->n);
    const int k = layer->k;
    const row_reader reader = reader_of(r, k, layer->L);
    const uint8_t *tile = tile_at(layer, i, 0);
    __m512 sums[8][MOST];
    memset(sums, 0, sizeof sums);
    for (int64_t g = 0; g < groups; g++, tile += GROUP * 32 * k, x++) {
        const int64_t left = tiles - GROUP * g - 1; /* where there are no tiles x is 0, and others may be read */
#pragma GCC unroll 8
        for (int at = 0; at < rows; at++) {
            __m512i products[MOST];
            memset(products, 0, sizeof products);
            for (int j = 0; j < GROUP; j++) {
                const uint8_t *here = tile + (j <= left ? j : left) * 32 * k;
                __m512i words = words_of(row_states(here, wraps ? at : r + at, k, wraps, &reader), way);
                for (int c = 0; c < b; c++)
                    products[c] = _mm512_dpbusd_epi32(products[c], words, _mm512_loadu_si512(x[c * groups].q[j]));
            }
            for (int c = 0; c < b; c++) {
                __m512 scale = _mm512_loadu_ps(x[c * groups].scale);
                sums[at][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[c]), scale, sums[at][c]);
            }
        }
    }
    for (int at = 0; at < rows && TILE * i + r + at < layer->m; at++)
        for (int c = 0; c < b; c++)
            y[c * layer->m + TILE * i + r + at] = layer->scale * (_mm512_reduce_add_ps(sums[at][c]) - offset[c]);
}

INLINE void one_row_of_tiles(const trellis_layer *layer, int64_t i, int way, const activations *x, const float *offset,
                             int b, float *y)
{
    const int rows = b == 1 ? 8 : 4;
    rows_of_tiles(layer, i, 0, rows, 1, way, x, offset, b, y);
    for (int r = rows; r < TILE; r += rows)
        rows_of_tiles(layer, i, r, rows, 0, way, x, offset, b, y);
}

INLINE void product(const trellis_layer *layer, int way, const activations *x, int64_t b, float *y, int64_t start,
                    int64_t stop)
{
    const int64_t groups = groups_of(layer->n);
    const float *total = (const float *)(x + b * groups);
    const float mean = way == ONE_MAD ? 510 : -MUL1_OFFSET / MUL1_SLOPE - 1024;
    for (int64_t c = 0, count; c < b; c += count) {
        count = b - c >= MOST ? MOST : 1;
        float offset[MOST];
        for (int64_t a = 0; a < count; a++)
            offset[a] = mean * total[c + a];
        for (int64_t i = start; i < stop; i++)
            if (count == MOST)
                one_row_of_tiles(layer, i, way, x + c * groups, offset, MOST, y + c * layer->m);
            else
                one_row_of_tiles(layer, i, way, x + c * groups, offset, 1, y + c * layer->m);
    }
}

/* y: (b, m) of x as ``trellis_int8_lay_out`` left it, for the rows of tiles start .. stop - 1. */
void trellis_int8(const uint8_t *codes, int64_t m, int64_t n, int way, int k, int L, const float *table,
                  const float *scale, float unit, const activations *x, int64_t b, float *y, int64_t start,
                  int64_t stop)
{
    const trellis_layer layer = {codes, m, n, way, k, L, table, *scale * unit * (way == MUL1 ? MUL1_SLOPE : 1)};
    if (way == ONE_MAD)
        product(&layer, ONE_MAD, x, b, y, start, stop);
    else
        product(&layer, MUL1, x, b, y, start, stop);
}

#endif
