/* Products with 16-bit numbers: values computed, not looked up.
 *
 * The value of a state is a quantile of the normal distribution, its number the rank of
 *
 *     key = a w + b mirror(w)  mod 2^L        w: the window, first bit lowest; mirror: its L bits in opposite order
 *
 * among all keys. Ranks nearly follow keys, so a curve over the key is the code but for some thousandths: 128 straight
 * pieces, and to the outer 2^-tail_bits on either side, where quantiles bend, 32 steps are added: of 64 in all the last, next to
 * the middle, is nothing, and stands for all keys that are not outside. All this lies in registers.
 * Windows of L bits are cut out with others above them, which the multiplications by a and b push out of 16 bits.
 *
 * x becomes integers of 14 bits with a scale for each group of columns, so that 32 products fit a sum of 32 bits.
 */

#ifndef QUIP_COLUMN_COMPUTED_H
#define QUIP_COLUMN_COMPUTED_H

#include "column_windows.h"

#if defined(WINDOWS_IN_VECTORS) && defined(__GFNI__) && defined(__AVX512VNNI__)
#define COMPUTED
#include <math.h>

enum { LARGEST = 8191 }; /* of an integer: 32 products with values of 13 bits fit 32 bits */

typedef struct {
    cuts cut;
    __m512i bytes, shifts; /* of the mirrored words */
} key_cuts;

typedef struct {
    __m512i start[4], rise[4], tail[2]; /* of 128 pieces; what 32 steps at the upper and 32 at the lower end add */
    __m512i a, b, mirror, piece, width, inner, step;
} curve;

static inline key_cuts key_cuts_of(const column_layer *a, int64_t eighths, int half)
{
    int64_t first[32];
    uint8_t bytes[64], shifts[64];
    for (int i = 0; i < 32; i++)
        first[i] = ((32 * half + i + 1) * eighths + 4) >> 3;
    key_cuts k = {.cut = cuts_at(first, half ? first[0] >> 3 : 0)};
    _mm512_storeu_si512(bytes, k.cut.bytes);
    _mm512_storeu_si512(shifts, k.cut.shifts);
    for (int i = 0; i < 64; i += 8)
        for (int j = 0; j < 4; j++) {
            const uint8_t low = bytes[i + j], begin = 64 - a->L - shifts[i + 2 * j];
            bytes[i + j] = bytes[i + 7 - j];
            bytes[i + 7 - j] = low;
            shifts[i + 2 * j] = begin;
            shifts[i + 2 * j + 1] = begin + 8;
        }
    k.bytes = _mm512_loadu_si512(bytes);
    k.shifts = _mm512_loadu_si512(shifts);
    return k;
}

static inline curve curve_of(const column_layer *a)
{
    curve c = {.a = _mm512_set1_epi16(a->multipliers[0] << (16 - a->L)),
               .b = _mm512_set1_epi16(a->multipliers[1] << (16 - a->L)),
               .mirror = _mm512_set1_epi64(0x8040201008040201),
               .piece = _mm512_set1_epi16(1 << 7), /* a shift, done by the multipliers, which have the time */
               .width = _mm512_set1_epi16(1 << (16 - a->tail_bits)),
               .inner = _mm512_set1_epi16((2 << (16 - a->tail_bits)) - 1),
               .step = _mm512_set1_epi16(1 << (5 + a->tail_bits))};
    for (int i = 0; i < 4; i++) {
        c.start[i] = _mm512_loadu_si512(a->curve + 32 * i);
        c.rise[i] = _mm512_loadu_si512(a->curve + 128 + 32 * i);
    }
    c.tail[0] = _mm512_loadu_si512(a->curve + 256);
    c.tail[1] = _mm512_loadu_si512(a->curve + 288);
    return c;
}

/* Values of 32 rows, in units of the curve. */
static inline __m512i computed(const curve *c, const key_cuts *k, __m512i block, const string_bits *string)
{
    const __m512i shift = _mm512_set1_epi64(string->shifts);
    __m512i words = _mm512_permutexvar_epi8(k->cut.bytes, block);
    __m512i mirrored = _mm512_gf2p8affine_epi64_epi8(_mm512_permutexvar_epi8(k->bytes, block), c->mirror, 0);
    words = _mm512_multishift_epi64_epi8(_mm512_add_epi8(k->cut.shifts, shift), words);
    mirrored = _mm512_multishift_epi64_epi8(_mm512_sub_epi8(k->shifts, shift), mirrored);
    const __m512i key = _mm512_add_epi16(_mm512_mullo_epi16(words, c->a), _mm512_mullo_epi16(mirrored, c->b));

    const __m512i piece = _mm512_mulhi_epu16(key, c->piece);
    const __mmask32 upper = _mm512_movepi16_mask(key);
    const __m512i start = _mm512_mask_blend_epi16(upper, _mm512_permutex2var_epi16(c->start[0], piece, c->start[1]),
                                                  _mm512_permutex2var_epi16(c->start[2], piece, c->start[3]));
    const __m512i rise = _mm512_mask_blend_epi16(upper, _mm512_permutex2var_epi16(c->rise[0], piece, c->rise[1]),
                                                 _mm512_permutex2var_epi16(c->rise[2], piece, c->rise[3]));
    const __m512i step = _mm512_mulhi_epu16(_mm512_min_epu16(_mm512_add_epi16(key, c->width), c->inner), c->step);
    return _mm512_add_epi16(_mm512_add_epi16(start, _mm512_mulhi_epu16(key, rise)),
                            _mm512_permutex2var_epi16(c->tail[0], step, c->tail[1]));
}

/* x: (b, columns) as pairs of integers of the columns 2 i and 2 i + 1; the scale of each row. */
static void to_integers(const float *x, int64_t n, int64_t b, int64_t columns, int32_t pairs[ROWS][WIDE / 2],
                        float scales[ROWS])
{
    for (int64_t r = 0; r < b; r++) {
        float largest = 0;
        for (int64_t i = 0; i < columns; i++) {
            float size = x[r * n + i] < 0 ? -x[r * n + i] : x[r * n + i];
            largest = size > largest ? size : largest;
        }
        const float inverse = largest > 0 ? LARGEST / largest : 0;
        scales[r] = largest / LARGEST;
        for (int64_t i = 0; i < columns; i += 2) {
            const int32_t low = (int32_t)lrintf(x[r * n + i] * inverse);
            const int32_t high = i + 1 < columns ? (int32_t)lrintf(x[r * n + i + 1] * inverse) : 0;
            pairs[r][i / 2] = (low & 0xFFFF) | (int32_t)((uint32_t)high << 16);
        }
    }
}

static inline __attribute__((always_inline)) void sum_computed(const column_group *group, const curve *c,
                                                               const key_cuts *k, const string_bits *strings,
                                                               int64_t number, int32_t pairs[ROWS][WIDE / 2], int b,
                                                               __m512i sum[ROWS][2])
{
    const int64_t origin = k->cut.origin;
    for (int r = 0; r < b; r++)
        sum[r][0] = sum[r][1] = _mm512_setzero_si512();
    for (int64_t i = 0; i < group->columns; i += 2) {
        const string_bits *one = strings + i, *two = one + 1;
        const __m512i u = computed(c, k, load_block(one, number, group->eighths, origin), one);
        const __m512i v = i + 1 < group->columns
                              ? computed(c, k, load_block(two, number, group->eighths, origin), two)
                              : _mm512_setzero_si512();
        const __m512i low = _mm512_unpacklo_epi16(u, v), high = _mm512_unpackhi_epi16(u, v);
        for (int r = 0; r < b; r++) {
            const __m512i factors = _mm512_set1_epi32(pairs[r][i / 2]);
            sum[r][0] = _mm512_dpwssd_epi32(sum[r][0], low, factors);
            sum[r][1] = _mm512_dpwssd_epi32(sum[r][1], high, factors);
        }
    }
}

/* y += scale sum, in 32 rows of which `left` are there; sums are those of four rows by turns. */
static inline void add_sums(const __m512i sum[2], float scale, float *y, int64_t left)
{
    const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    for (int j = 0; j < 2; j++, left -= 16, y += 16) {
        const __m512i rows = _mm512_add_epi32(order, _mm512_set1_epi32(8 * j));
        const __m512 value = _mm512_cvtepi32_ps(_mm512_permutex2var_epi32(sum[0], rows, sum[1]));
        const __mmask16 some = left >= 16 ? 0xFFFF : left > 0 ? (1 << left) - 1 : 0;
        _mm512_mask_storeu_ps(y, some, _mm512_fmadd_ps(_mm512_set1_ps(scale), value, _mm512_maskz_loadu_ps(some, y)));
    }
}

/* y += x W~^T of the group's columns, rows of the strings start .. stop - 1. */
static inline void add_computed(const column_layer *a, const column_group *group, const key_cuts k[2], const float *x,
                                int64_t b, float *y, int64_t start, int64_t stop)
{
    uint64_t words[WIDE][WORDS];
    string_bits strings[WIDE];
    int32_t pairs[ROWS][WIDE / 2];
    float scales[ROWS];
    const curve c = curve_of(a);
    to_integers(x, a->n, b, group->columns, pairs, scales);
    for (int64_t s = start; s < stop; s++) {
        const int64_t row = s * a->T, rows = a->m - row < a->T ? a->m - row : a->T;
        for (int64_t i = 0; i < group->columns; i++)
            strings[i] = find_string(a, group, i, s, words[i]);
        for (int64_t t = 0; t < rows; t += BLOCK / 2) {
            const key_cuts *half = &k[t / (BLOCK / 2) & 1];
            __m512i sum[ROWS][2];
            if (b == 1)
                sum_computed(group, &c, half, strings, t / BLOCK, pairs, 1, sum);
            else
                sum_computed(group, &c, half, strings, t / BLOCK, pairs, b, sum);
            for (int64_t r = 0; r < b; r++)
                add_sums(sum[r], scales[r] * group->factor * a->unit, y + r * a->m + row + t, rows - t);
        }
    }
}
#endif
#endif
