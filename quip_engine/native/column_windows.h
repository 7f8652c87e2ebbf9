/* Windows of 64 rows of a column at once (AVX-512 VBMI).
 *
 * Eight steps take e bits, so 64 take e bytes: all blocks of 64 rows begin at the same bit of a byte, and where their
 * windows lie is the same for all blocks and columns of one rate. Two shuffles cut out 32 windows: of bytes into
 * words of 64 bits that hold four windows each, then of bits.
 */
#ifndef QUIP_COLUMN_WINDOWS_H
#define QUIP_COLUMN_WINDOWS_H

#include "column_trellis.h"

#ifdef WINDOWS_IN_VECTORS
#include <immintrin.h>

enum { BLOCK = 64, BLOCKS = LONGEST / BLOCK }; /* rows of W~, blocks of a string */

/* How 32 windows lie: the byte where they begin, bytes of their words, bits in these. */
typedef struct {
    int64_t origin;
    __m512i bytes, shifts;
} cuts;

/* Windows that begin at these bits, rising, four at most 31 bits apart; `origin`: a byte not behind them. */
static inline cuts cuts_at(const int64_t first[32], int64_t origin)
{
    uint8_t bytes[64], shifts[64];
    for (int i = 0; i < 64; i++) {
        const int64_t word = (first[i / 8 * 4] >> 3) - origin;
        bytes[i] = word + (i & 7);
        shifts[i] = first[i / 2] - 8 * (origin + word) + 8 * (i & 1);
    }
    return (cuts){origin, _mm512_loadu_si512(bytes), _mm512_loadu_si512(shifts)};
}

/* Where the bits of a string are, from L bits before it on: there its first window would begin. */
typedef struct {
    const uint8_t *from;
    uint64_t shifts; /* in each byte: the bit of the first one where it begins */
    uint64_t first;  /* word, with the last bits of the string before its own */
} string_bits;

/* In each byte, 8 bits of the word of 8 bytes of the block that it lies in. */
static inline __m512i cut(__m512i shifts, __m512i bytes, __m512i block)
{
    return _mm512_multishift_epi64_epi8(shifts, _mm512_permutexvar_epi8(bytes, block));
}

/* String s of a column; `codes` from byte `origin` on. `words` is room for one at an end of the codes, or so short that
 * blocks begin before it. */
static inline string_bits find_string(const column_layer *a, const column *c, int64_t s, const uint8_t *codes,
                                      int64_t origin, uint64_t words[WORDS])
{
    const int64_t begin = c->at + s * c->bits, reach = (a->T + 63) / 64 * c->eighths + 128;
    int64_t at = begin - a->L - 8 * origin;
    if (begin < a->L || (begin >> 3) + reach > a->octets || c->eighths < 8) {
        copy_string(a, begin, c->bits, words);
        codes = (const uint8_t *)words;
        at = 64 - a->L;
    }
    const int64_t last = at + c->bits, shift = at & 7;
    const uint64_t mask = (((uint64_t)1 << a->L) - 1) << shift;
    const uint64_t before = load_word(codes + (last >> 3)) >> (last & 7) << shift;
    const uint64_t first = (load_word(codes + (at >> 3)) & ~mask) | (before & mask);
    return (string_bits){codes + (at >> 3), shift * 0x0101010101010101, first};
}

/* Block number k, from byte `origin` on. */
static inline __m512i load_block(const string_bits *string, int64_t k, int64_t eighths, int64_t origin)
{
    __m512i block = _mm512_loadu_si512(string->from + k * eighths + origin);
    return k || origin ? block : _mm512_mask_set1_epi64(block, 1, string->first);
}

#endif
#endif
