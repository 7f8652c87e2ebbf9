/* Values looked up, 64 rows at once (AVX-512 VBMI): of the rates whose values are not computed.
 *
 * Numbers of the values are stored for all columns before the first of them is read, since a load that follows its
 * store too closely waits for it. What the time goes to is loads of values, singly into a register.
 */
#ifndef QUIP_COLUMN_NUMBERED_H
#define QUIP_COLUMN_NUMBERED_H

#include "column_windows.h"

#ifdef WINDOWS_IN_VECTORS
/* How the windows of a block lie. */
typedef struct {
    cuts cut[2];
    int known;
} numbering;

static inline numbering numbering_of(int64_t eighths)
{
    numbering numbers = {.known = 1};
    for (int half = 0; half < 2; half++) {
        int64_t first[32];
        for (int i = 0; i < 32; i++)
            first[i] = ((32 * half + i + 1) * eighths + 4) >> 3;
        numbers.cut[half] = cuts_at(first, half ? first[0] >> 3 : 0);
    }
    return numbers;
}

#define AT(i) _mm_load_ss(values + at[i])
#define VALUES_4(i) _mm_insert_ps(_mm_insert_ps(_mm_insert_ps(AT(i), AT(i + 1), 16), AT(i + 2), 32), AT(i + 3), 48)
#define VALUES_8(i) _mm256_insertf128_ps(_mm256_castps128_ps256(VALUES_4(i)), VALUES_4(i + 4), 1)

/* Of 16 windows. */
static inline __m512 load_values(const float *values, const uint16_t at[16])
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(VALUES_8(0)), VALUES_8(8), 1);
}

/* Windows of string s of each column, by blocks. */
static inline void number_columns(const column_layer *a, numbering numbers[RATES], const column *columns, int64_t count,
                                  int64_t s, uint16_t at[BLOCKS][WIDE][BLOCK])
{
    const __m512i mask = _mm512_set1_epi16((short)(((uint32_t)1 << a->L) - 1));
    uint64_t words[WORDS];
    for (int64_t i = 0; i < count; i++) {
        numbering *how = &numbers[columns[i].eighths];
        if (!how->known)
            *how = numbering_of(columns[i].eighths);
        const string_bits string = find_string(a, &columns[i], s, a->codes, 0, words);
        const __m512i shift = _mm512_set1_epi64(string.shifts);
        for (int64_t k = 0; k * BLOCK < a->T; k++)
            for (int half = 0; half < 2; half++) {
                const cuts *c = &how->cut[half];
                const __m512i block = load_block(&string, k, columns[i].eighths, c->origin);
                const __m512i windows = cut(_mm512_add_epi8(c->shifts, shift), c->bytes, block);
                _mm512_storeu_si512(at[k][i] + 32 * half, _mm512_and_si512(windows, mask));
            }
    }
}

static inline const float *quantiles(const column_layer *a) { return a->values + ((int64_t)2 << a->L); }

#endif
#endif
