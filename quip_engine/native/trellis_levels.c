/* Products of a few rows of x with a trellis layer of the code ``levels``: as whole numbers.

   Levels are of 8 bits, and ``vpdpbusd`` adds up 64 products of 8 bits in one instruction. So x becomes whole numbers,
   too, of one digit to the base of 256 or, for float activations, of three: eight or sixteen x share a scale, so 8 bits
   lose .4 %, and 24 less than the sums of float32 would.

       y_i = s sum_l scale_l sum_d 256^(D - d) sum_j level_ij q_dj        x_j = scale_l sum_d 256^(D - d) q_dj

   They are four columns of each of two or four tiles. Levels come as bytes without a sign, 128 more than they are; so
   the sum of their products begins with -128 sum_j q_dj. */

#include "trellis_levels.h"

#ifdef TRELLIS_LEVELS

enum { MOST = 4, BASE = 256 }; /* rows of x */

/* What a group of tiles is multiplied by, in parts of 16 bytes: for each digit that of the columns of each tile
   (int8_t), and where its sums begin (int32_t); last, the scales. */
typedef uint8_t part[16];

INLINE int group_of(int digits) { return digits == 1 ? 2 : 4; }

INLINE int parts_of(int digits) { return digits * (group_of(digits) + 1) + 1; }

/* Of a row of x. */
INLINE int64_t parts_in(int64_t n, int digits)
{
    return (tiles_of(n) + group_of(digits) - 1) / group_of(digits) * parts_of(digits);
}

int64_t trellis_levels_bytes(int64_t n, int digits) { return parts_in(n, digits) * (int64_t)sizeof(part); }

/* Lanes of four that all have what the four add up to. */
INLINE __m512i sums_of_four(__m512i x)
{
    x = _mm512_add_epi32(x, _mm512_shuffle_epi32(x, 0xB1));
    return _mm512_add_epi32(x, _mm512_shuffle_epi32(x, 0x4E));
}

INLINE __m512i largest_of_four(__m512i x)
{
    x = _mm512_max_epu32(x, _mm512_shuffle_epi32(x, 0xB1));
    return _mm512_max_epu32(x, _mm512_shuffle_epi32(x, 0x4E));
}

/* The first of each four. */
INLINE __m128i one_of_four(__m512i x)
{
    return _mm512_castsi512_si128(
        _mm512_permutexvar_epi32(_mm512_castsi128_si512(_mm_set_epi32(12, 8, 4, 0)), x));
}

/* A group of at most ``group`` tiles: x: (16 tiles,). Where all are below 1e-30, whose scale would be too small for a
   float32, they count as 0. */
INLINE void lay_out(const float *x, int64_t tiles, int group, int digits, part *to)
{
    __m512i q[4], largest = _mm512_setzero_si512();
    for (int j = 0; j < tiles; j++) /* as whole numbers, where what is not finite is largest of all */
        largest = _mm512_max_epu32(largest, _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x + TILE * j))));
    const __m512 most = _mm512_castsi512_ps(largest_of_four(largest));
    const __m512 range = _mm512_set1_ps(127.0f * (digits == 1 ? 1 : BASE * BASE));
    const __mmask16 some = _mm512_cmp_ps_mask(most, _mm512_set1_ps(1e-30f), _CMP_NLT_UQ);
    const __m512 inverse = _mm512_maskz_div_ps(some, range, most);
    for (int j = 0; j < group; j++)
        q[j] = j < tiles ? _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + TILE * j), inverse))
                         : _mm512_setzero_si512();
    for (int d = digits - 1; d >= 0; d--) {
        part *digit = to + d * (group + 1);
        __m512i sum = _mm512_setzero_si512();
        for (int j = 0; j < group; j++) {
            __m512i lowest = _mm512_srai_epi32(_mm512_slli_epi32(q[j], 24), 24);
            _mm_storeu_si128((__m128i *)digit[j], _mm512_cvtepi32_epi8(lowest));
            q[j] = _mm512_srai_epi32(_mm512_sub_epi32(q[j], lowest), 8);
            sum = _mm512_sub_epi32(sum, lowest);
        }
        _mm_storeu_si128((__m128i *)digit[group], one_of_four(_mm512_slli_epi32(sums_of_four(sum), 7)));
    }
    const __m512 scale = _mm512_maskz_div_ps(some, most, range);
    _mm_storeu_si128((__m128i *)to[parts_of(digits) - 1], one_of_four(_mm512_castps_si512(scale)));
}

/* to: (b, parts_in(n)) from x: (b, 16 ceil(n / 16)). */
void trellis_levels_lay_out(const float *x, int64_t n, int64_t b, int digits, part *to)
{
    const int group = group_of(digits);
    for (int64_t c = 0; c < b; c++)
        for (int64_t left = tiles_of(n), tiles; left > 0; left -= tiles, x += TILE * tiles, to += parts_of(digits)) {
            tiles = left < group ? left : group;
            lay_out(x, tiles, group, digits, to);
        }
}

INLINE __m512i four_times(const uint8_t *of) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const void *)of)); }

/* ``quarters`` quarters of the tiles in row i, from ``first`` on, b rows of x. */
INLINE void rows_of_tiles(const trellis_layer *layer, const level_reader *reader, int64_t i, int first, int quarters,
                          int k, const part *x, int digits, int b, float *y)
{
    const int64_t stride = parts_in(layer->n, digits);
    const int group = group_of(digits);
    const uint8_t *tile = tile_at(layer, i, 0);
    __m512 sums[QUARTERS][MOST];
    memset(sums, 0, sizeof sums);
    for (int64_t left = tiles_of(layer->n); left > 0; left -= group, x += parts_of(digits)) {
        __m512i products[QUARTERS][MOST][3];
        for (int a = 0; a < quarters; a++)
            for (int c = 0; c < b; c++)
                for (int d = 0; d < digits; d++)
                    products[a][c][d] = four_times(x[c * stride + d * (group + 1) + group]);
        for (int j = 0; j < group; j++) { /* where there are no tiles x is 0, and the last may be read again */
            const tile_bytes bytes = mirrored(tile, k);
#pragma GCC unroll 4
            for (int a = 0; a < quarters; a++) {
                const __m512i levels = levels_of(bytes, first + a, k, reader);
                for (int c = 0; c < b; c++)
                    for (int d = 0; d < digits; d++)
                        products[a][c][d] = _mm512_dpbusd_epi32(products[a][c][d], levels,
                                                                four_times(x[c * stride + d * (group + 1) + j]));
            }
            tile += j + 1 < left ? 32 * k : 0;
        }
        for (int c = 0; c < b; c++) {
            const __m512 scale = _mm512_castsi512_ps(four_times(x[c * stride + parts_of(digits) - 1]));
            for (int a = 0; a < quarters; a++) {
                __m512 sum = _mm512_cvtepi32_ps(products[a][c][0]);
                for (int d = 1; d < digits; d++)
                    sum = _mm512_fmadd_ps(sum, _mm512_set1_ps(BASE), _mm512_cvtepi32_ps(products[a][c][d]));
                sums[a][c] = _mm512_fmadd_ps(sum, scale, sums[a][c]);
            }
        }
    }
    for (int r = 0; r < ROWS * quarters && TILE * i + ROWS * first + r < layer->m; r++)
        for (int c = 0; c < b; c++) {
            const float *four = (const float *)&sums[r / ROWS][c] + 4 * (r % ROWS);
            y[c * layer->m + TILE * i + ROWS * first + r] = layer->scale * ((four[0] + four[1]) + (four[2] + four[3]));
        }
}

INLINE void product(const trellis_layer *layer, int k, const part *x, int digits, int64_t b, float *y,
                    int64_t start, int64_t stop)
{
    const int64_t stride = parts_in(layer->n, digits);
    const level_reader reader = level_reader_of(layer);
    for (int64_t i = start; i < stop; i++) {
        int64_t c = 0;
        for (; b - c >= MOST; c += MOST)
            for (int quarter = 0; quarter < QUARTERS; quarter++)
                rows_of_tiles(layer, &reader, i, quarter, 1, k, x + c * stride, digits, MOST, y + c * layer->m);
        for (; c < b; c++)
            rows_of_tiles(layer, &reader, i, 0, QUARTERS, k, x + c * stride, digits, 1, y + c * layer->m);
    }
}

/* y: (b, m) of x as ``trellis_levels_lay_out`` left it, for the rows of tiles start .. stop - 1. */
void trellis_levels(const uint8_t *codes, int64_t m, int64_t n, int way, int k, int L, const float *levels,
                    const float *scale, float unit, int digits, const part *x, int64_t b, float *y, int64_t start,
                    int64_t stop)
{
    const trellis_layer layer = {codes, m, n, way, k, L, levels, *scale * unit};
#define CASE(bits)                                                                                                     \
    if (k == bits && digits == 1)                                                                                      \
        product(&layer, bits, x, 1, b, y, start, stop);                                                                \
    else if (k == bits)                                                                                                \
        product(&layer, bits, x, 3, b, y, start, stop);
    CASE(1)
    CASE(2)
    CASE(3)
    CASE(4)
#undef CASE
}

#endif

/* What the code ``levels`` is computed with; empty where it is looked up. */
const char *trellis_levels_features(void)
{
#ifdef TRELLIS_LEVELS
    return "AVX-512 VBMI";
#else
    return "";
#endif
}
