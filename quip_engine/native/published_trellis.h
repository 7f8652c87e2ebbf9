/* Tiles of codebooks/published_trellis.py: 16 x 16 weights, 128 steps of two weights each.
 *
 * The state of step t is the window of 16 bits that ends at bit 2 k (t + 1) of the tile's 32 k bytes, a circle, each
 * byte from its highest bit on. Its pair is number (x (x + 1) >> 6) mod 1024 of 512 stored pairs and the same with the
 * sign of the first one turned: bit 15 of x (x + 1) is that sign. So 16 bits are enough for all but the values.
 *
 * With AVX-512 (VBMI) 32 states are read at a time: bytes are put in order so that eight of them, as one number, hold
 * four states, which are cut out at their bits. Pairs are looked up in registers, halves of the table at a time: eight
 * look-ups among 64 numbers, and a choice by the three high bits. Elsewhere they are loaded from a table of 8 KB.
 */

#ifndef QUIP_PUBLISHED_TRELLIS_H
#define QUIP_PUBLISHED_TRELLIS_H

#include "half.h"

#include <stdint.h>
#include <string.h>

#if defined(__AVX512VBMI__) && defined(__AVX512BW__)
#include <immintrin.h>
#define PUBLISHED_VECTORS 1
#endif

enum { TILE = 16, STEPS = 128, PAIRS = 512, GROUP = 32 /* steps */ };

typedef struct {
    const uint8_t *codes;  /* (rows of tiles, columns of tiles, 32 k) */
    const uint16_t *table; /* (512, 2), halves */
    const float *scale;
    int64_t k, m, n;
} published_layer;

static inline int64_t tiles(int64_t n) { return (n + TILE - 1) / TILE; }

#ifdef PUBLISHED_VECTORS

typedef struct {
    __m512i bytes, shifts; /* where eight bytes with four states are, and where the two bytes of a state are in them */
    __m512i first[PAIRS / GROUP], second[PAIRS / GROUP]; /* of the pairs, halves */
} decoder;

static inline void decoder_of(const published_layer *a, decoder *d)
{
    _Alignas(64) uint8_t bytes[64], shifts[64];
    _Alignas(64) uint16_t halves[2][PAIRS];
    for (int64_t i = 0; i < 8; i++) {
        const int64_t start = 2 * a->k * (4 * i + 1) / 8;
        for (int64_t j = 0; j < 8; j++)
            bytes[8 * i + j] = (uint8_t)(start + 7 - j);
        for (int64_t j = 0; j < 4; j++) {
            const int64_t bit = 2 * a->k * (4 * i + j + 1) - 8 * start;
            shifts[8 * i + 2 * j] = (uint8_t)(48 - bit);
            shifts[8 * i + 2 * j + 1] = (uint8_t)(56 - bit);
        }
    }
    for (int64_t i = 0; i < 2 * PAIRS; i++)
        halves[i & 1][i >> 1] = a->table[i];
    d->bytes = _mm512_load_si512(bytes);
    d->shifts = _mm512_load_si512(shifts);
    memcpy(d->first, halves[0], sizeof d->first);
    memcpy(d->second, halves[1], sizeof d->second);
}

/* Of 32 steps, from their bytes and the two before them: the pair in the low nine bits, the sign in the next. */
static inline __m512i pair_numbers(const decoder *d, __m512i bytes)
{
    const __m512i state = _mm512_multishift_epi64_epi8(d->shifts, _mm512_permutexvar_epi8(d->bytes, bytes));
    return _mm512_srli_epi16(_mm512_mullo_epi16(state, _mm512_add_epi16(state, _mm512_set1_epi16(1))), 6);
}

static inline __m512i look_up(const __m512i *table, __m512i number)
{
    const __mmask32 low = _mm512_test_epi16_mask(number, _mm512_set1_epi16(64));
    const __mmask32 middle = _mm512_test_epi16_mask(number, _mm512_set1_epi16(128));
    const __mmask32 high = _mm512_test_epi16_mask(number, _mm512_set1_epi16(256));
    __m512i found[8];
    for (int i = 0; i < 8; i++)
        found[i] = _mm512_permutex2var_epi16(table[2 * i], number, table[2 * i + 1]);
    for (int i = 0; i < 8; i += 2)
        found[i] = _mm512_mask_blend_epi16(low, found[i], found[i + 1]);
    for (int i = 0; i < 8; i += 4)
        found[i] = _mm512_mask_blend_epi16(middle, found[i], found[i + 2]);
    return _mm512_mask_blend_epi16(high, found[0], found[4]);
}

static inline void store_halves(__m512i halves, float *to)
{
    _mm512_storeu_ps(to, _mm512_cvtph_ps(_mm512_castsi512_si256(halves)));
    _mm512_storeu_ps(to + 16, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
}

static inline void decode_tile(const decoder *d, const uint8_t *tile, int64_t k, float *first, float *second)
{
    const __mmask64 octets = ((uint64_t)1 << (8 * k + 2)) - 1; /* of 32 steps, and the two before them */
    uint16_t last;
    memcpy(&last, tile + 32 * k - 2, 2);
    for (int64_t t = 0; t < STEPS; t += GROUP) {
        __m512i bytes = _mm512_maskz_loadu_epi8(t ? octets : octets & ~(__mmask64)3, tile + k * t / 4 - 2);
        if (t == 0)
            bytes = _mm512_mask_set1_epi16(bytes, 1, (short)last);
        const __m512i number = pair_numbers(d, bytes);
        const __m512i sign = _mm512_slli_epi16(_mm512_srli_epi16(number, 9), 15);
        store_halves(_mm512_xor_si512(look_up(d->first, number), sign), first + t);
        store_halves(look_up(d->second, number), second + t);
    }
}

#else

typedef struct {
    float first[2 * PAIRS], second[2 * PAIRS];
} decoder;

static inline void decoder_of(const published_layer *a, decoder *d)
{
    for (int64_t i = 0; i < PAIRS; i++) {
        d->first[i] = half_to_float(a->table[2 * i]);
        d->first[i + PAIRS] = -d->first[i];
        d->second[i] = d->second[i + PAIRS] = half_to_float(a->table[2 * i + 1]);
    }
}

static inline void decode_tile(const decoder *d, const uint8_t *tile, int64_t k, float *first, float *second)
{
    uint8_t from[32 * 4 + 2]; /* the tile behind its own last two bytes */
    memcpy(from, tile + 32 * k - 2, 2);
    memcpy(from + 2, tile, 32 * k);
    for (int64_t t = 0; t < STEPS; t++) {
        const int64_t bit = 2 * k * (t + 1);
        const uint8_t *at = from + bit / 8;
        const uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 8 | at[2];
        const uint32_t state = bits >> (8 - bit % 8) & 0xffff;
        const uint32_t number = state * (state + 1) >> 6 & (2 * PAIRS - 1);
        first[t] = d->first[number];
        second[t] = d->second[number];
    }
}

#endif

#endif
