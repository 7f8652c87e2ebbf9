/* Levels of 64 rows of a column at once: whole numbers of 8 bits, computed in registers (AVX-512 VBMI, GFNI).
 *
 * codebooks/column_codes.py says which code a rate has. Of a window w, first bit lowest, the state is w with its bits
 * in opposite order, so the rank of a state, at the upper end of 16 bits, is
 *
 *     K = 3 w 2^(16 - L) + 2^8 x mod 2^16         x: the first L / 2 bits of w mirrored into the upper ones of a byte
 *
 * and `levels` counts K / 2^8: the upper byte of 3 w 2^(16 - L), which takes lanes of 16 bits, plus x: bytes.
 * Steps without bits have 11 in place of 3, and 13 x = x + 4 x + 8 x. A byte counts 256 levels in four registers.
 * `companded` bends K first; k = K - 2^15 leaves its levels in the order of signed bytes.
 */
#ifndef QUIP_COLUMN_LEVELS_H
#define QUIP_COLUMN_LEVELS_H

#include "column_windows.h"

#ifdef WINDOWS_IN_VECTORS

enum { TOGETHER = 16 };                           /* strings copied together */
enum { END = 1 << 10, SLOPE = 25369, STEEP = 3 }; /* of codebooks/column_codes.py */

/* Where 64 windows lie, and what their values are. */
typedef struct {
    cuts wide[2];          /* 32 windows each, of 16 bits */
    __m512i bytes, shifts; /* of 8 bits from the beginning of each of 64, eight in a word */
    __m512i times[2];      /* what w is multiplied with */
    __mmask64 idle;        /* steps without bits */
    enum { LEVELS, LEVELS_AND_IDLE, COMPANDED } kind;
    int known;
} layout;

/* The rest: levels in the order in which they are counted, which bits of a byte are x, the upper bytes of lanes. */
typedef struct {
    __m512i levels[4], mirror, odd;
} level_table;

/* What decoding needs of all columns; `known` of layouts is 0 at first. */
typedef struct {
    layout layouts[RATES];
    level_table tables[2];
    uint8_t codes[WIDE][TOGETHER * LONGEST * 5 / 8 + 128]; /* of some strings of each column, and where these begin */
    int64_t origin[WIDE];
} level_reader;

static inline layout layout_of(const column_layer *a, int64_t eighths)
{
    layout l = {.kind = eighths < 8 ? LEVELS_AND_IDLE : eighths <= a->levels_to ? LEVELS : COMPANDED, .known = 1};
    int64_t first[64];
    uint8_t bytes[64], shifts[64];
    uint16_t times[64];
    for (int i = 0; i < 64; i++) {
        const int64_t before = (i * eighths + 4) >> 3;
        first[i] = ((i + 1) * eighths + 4) >> 3;
        l.idle |= (__mmask64)(first[i] == before) << i;
        times[i] = (first[i] == before ? 11 : 3) << (16 - a->L);
        bytes[i] = (first[i / 8 * 8] >> 3) + (i & 7);
        shifts[i] = first[i] - 8 * (first[i / 8 * 8] >> 3);
    }
    l.bytes = _mm512_loadu_si512(bytes);
    l.shifts = _mm512_loadu_si512(shifts);
    for (int half = 0; half < 2; half++) {
        l.wide[half] = cuts_at(first + 32 * half, 0);
        l.times[half] = _mm512_loadu_si512(times + 32 * half);
    }
    return l;
}

/* `flip`: 128 for levels from -128 on, as unsigned numbers. */
static inline void prepare_levels(const column_layer *a, int flip, level_reader *reader)
{
    const int64_t kept = a->L - a->L / 2;
    uint8_t odd[64];
    for (int i = 0; i < RATES; i++)
        reader->layouts[i].known = 0;
    for (int i = 0; i < 64; i++)
        odd[i] = 2 * i + 1;
    for (int code = 0; code < 2; code++) {
        level_table *t = &reader->tables[code];
        for (int i = 0; i < 4; i++)
            t->levels[i] = _mm512_xor_si512(_mm512_loadu_si512(a->levels + 256 * code + 64 * i),
                                            _mm512_set1_epi8((char)flip));
        t->mirror = _mm512_set1_epi64(0x8040201008040201 & (~(uint64_t)0 >> (64 - 8 * kept)));
        t->odd = _mm512_loadu_si512(odd);
    }
}

/* The codes of up to TOGETHER strings of each column. These lie as far apart as many columns take together, often at a
 * power of two, which few lines of a cache can hold; here they do not, and are read in order. */
static inline void copy_codes(const column_layer *a, level_reader *reader, const column *columns, int64_t count,
                              int64_t start, int64_t stop)
{
    for (int64_t i = 0; i < count; i++) {
        const column *c = &columns[i];
        const int64_t begin = c->at + start * c->bits - a->L, end = (c->at + stop * c->bits + 7) / 8;
        reader->origin[i] = begin < 0 ? 0 : begin >> 3;
        const uint8_t *from = a->codes + reader->origin[i];
        const int64_t size = end - reader->origin[i], left = a->octets - reader->origin[i];
        if (left < size + 64) {
            memcpy(reader->codes[i], from, left < 0 ? 0 : left < size ? left : size);
            continue;
        }
        for (int64_t at = 0; at < size; at += 64) {
            __builtin_prefetch(from + WIDE * a->S * c->bits / 8 + at); /* about where the next columns lie */
            _mm512_storeu_si512(reader->codes[i] + at, _mm512_loadu_si512(from + at));
        }
    }
}

/* k = K - 2^15 to 2^8 times the number of its level: column_codes.py. */
static inline __m512i companded(__m512i k)
{
    const __m512i end = _mm512_set1_epi16(32768 - END);
    const __m512i t = _mm512_max_epi16(_mm512_min_epi16(k, end), _mm512_sub_epi16(_mm512_setzero_si512(), end));
    return _mm512_add_epi16(_mm512_mulhrs_epi16(t, _mm512_set1_epi16(SLOPE)),
                            _mm512_slli_epi16(_mm512_sub_epi16(k, t), STEEP));
}

/* Levels of the 64 rows of a block. */
static inline __attribute__((always_inline)) __m512i levels_of(const layout *l, int kind, const level_table *t,
                                                               __m512i block)
{
    const __m512i first = cut(l->shifts, l->bytes, block);
    const __m512i low = _mm512_mullo_epi16(cut(l->wide[0].shifts, l->wide[0].bytes, block), l->times[0]);
    const __m512i high = _mm512_mullo_epi16(cut(l->wide[1].shifts, l->wide[1].bytes, block), l->times[1]);
    __m512i number;
    if (kind == COMPANDED) {
        const __m512i x = _mm512_gf2p8affine_epi64_epi8(first, t->mirror, 0x80), none = _mm512_setzero_si512();
        const __m512i spread = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), x);
        number = _mm512_permutex2var_epi8(
            companded(_mm512_add_epi16(low, _mm512_unpacklo_epi8(none, spread))), t->odd,
            companded(_mm512_add_epi16(high, _mm512_unpackhi_epi8(none, spread))));
    } else {
        const __m512i x = _mm512_gf2p8affine_epi64_epi8(first, t->mirror, 0);
        number = _mm512_add_epi8(_mm512_permutex2var_epi8(low, t->odd, high), x);
    }
    if (kind == LEVELS_AND_IDLE) {
        const __m512i four = _mm512_gf2p8affine_epi64_epi8(first, _mm512_srli_epi64(t->mirror, 16), 0);
        const __m512i eight = _mm512_gf2p8affine_epi64_epi8(first, _mm512_srli_epi64(t->mirror, 24), 0);
        number = _mm512_mask_add_epi8(number, l->idle, number, _mm512_add_epi8(four, eight));
    }
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(number),
                                  _mm512_permutex2var_epi8(t->levels[0], number, t->levels[1]),
                                  _mm512_permutex2var_epi8(t->levels[2], number, t->levels[3]));
}

static inline __attribute__((always_inline)) void decode_kind(const column_layer *a, const level_reader *reader,
                                                              int kind, const column *columns, int64_t i, int64_t stop,
                                                              int64_t s, uint8_t out[BLOCKS][WIDE][BLOCK])
{
    const layout *how = &reader->layouts[columns[i].eighths];
    const level_table t = reader->tables[kind == COMPANDED]; /* all that follows stays in registers */
    layout l = *how;
    uint64_t words[WORDS];
    if (kind != LEVELS_AND_IDLE)
        l.times[1] = l.times[0];
    for (; i < stop; i++) {
        const string_bits string = find_string(a, &columns[i], s, reader->codes[i], reader->origin[i], words);
        const __m512i shift = _mm512_set1_epi64(string.shifts);
        l.shifts = _mm512_add_epi8(how->shifts, shift);
        for (int half = 0; half < 2; half++)
            l.wide[half].shifts = _mm512_add_epi8(how->wide[half].shifts, shift);
        for (int64_t k = 0; k * BLOCK < a->T; k++) {
            const __m512i block = load_block(&string, k, columns[i].eighths, 0);
            _mm512_store_si512(out[k][i], levels_of(&l, kind, &t, block));
        }
    }
}

/* Levels of string s, one of those copied, of each column, by blocks. */
static inline void decode_levels(const column_layer *a, level_reader *reader, const column *columns, int64_t count,
                                 int64_t s, uint8_t out[BLOCKS][WIDE][BLOCK])
{
    for (int64_t i = 0, next; i < count; i = next) {
        layout *l = &reader->layouts[columns[i].eighths];
        if (!l->known)
            *l = layout_of(a, columns[i].eighths);
        for (next = i + 1; next < count && columns[next].eighths == columns[i].eighths;)
            next++;
        if (l->kind == LEVELS)
            decode_kind(a, reader, LEVELS, columns, i, next, s, out);
        else if (l->kind == COMPANDED)
            decode_kind(a, reader, COMPANDED, columns, i, next, s, out);
        else
            decode_kind(a, reader, LEVELS_AND_IDLE, columns, i, next, s, out);
    }
}
#endif
#endif
