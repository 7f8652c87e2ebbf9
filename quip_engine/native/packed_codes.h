/* Codes of 1 to 8 bits, packed as codebooks/packing.py says, one to a byte: 64 at a time.

   Eight codes take `bits` whole bytes. With VBMI these are brought into one 64-bit lane by a byte permutation, and
   vpmultishiftqb takes each byte of the lane from the bit where its code begins: three instructions for 64 codes of
   any width. Elsewhere a lane's codes are moved apart by halves: four and four, two and two, one and one.

   Reads without a mask are several times as fast, so 64 bytes are read wherever as many are `left` in the array; codes
   behind the end of a row mean nothing. */

#pragma once

#include <string.h>

#include "lanes.h"

enum { CHUNK = 64 }; /* codes, and bytes */

#if defined(__AVX512VBMI__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define WIDE_CODES 1 /* Intel from Ice Lake, AMD from Zen 4 */
#include <immintrin.h>

typedef struct {
    __m512i bytes, shifts, mask;
} expansion;

static inline expansion expansion_of(int bits)
{
    uint8_t bytes[CHUNK], shifts[CHUNK];
    for (int i = 0; i < CHUNK; i++) {
        bytes[i] = (uint8_t)((i / 8 * bits + i % 8) % CHUNK);
        shifts[i] = (uint8_t)(i % 8 * bits);
    }
    expansion e = {_mm512_loadu_si512(bytes), _mm512_loadu_si512(shifts), _mm512_set1_epi8((char)((1 << bits) - 1))};
    return e;
}

static inline __m512i expand(const expansion *e, const uint8_t *packed, int64_t left)
{
    __m512i bytes = __builtin_expect(left >= CHUNK, 1)
                        ? _mm512_loadu_si512(packed)
                        : _mm512_maskz_loadu_epi8(_bzhi_u64(~0ULL, (unsigned)left), packed);
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(e->shifts, _mm512_permutexvar_epi8(e->bytes, bytes)), e->mask);
}

static inline void unpack_codes(const expansion *e, const uint8_t *packed, int64_t left, uint8_t codes[CHUNK])
{
    _mm512_storeu_si512(codes, expand(e, packed, left));
}

#else

typedef uint64_t words __attribute__((vector_size(4 * LANES)));

enum { REGISTERS = CHUNK / (4 * LANES), WORDS = LANES / 2 };

typedef struct {
    int bits;
    uint64_t four, two, one;
} expansion;

static inline expansion expansion_of(int bits)
{
    const uint64_t ones = ~0ULL;
    expansion e = {bits, ones >> (64 - 4 * bits), (ones >> (64 - 2 * bits)) * 0x0000000100000001,
                   (ones >> (64 - bits)) * 0x0001000100010001};
    return e;
}

static inline void expand(const expansion *e, const uint8_t *packed, int64_t left, words codes[REGISTERS])
{
    uint8_t end[CHUNK] = {0};
    if (__builtin_expect(left < CHUNK, 0))
        packed = memcpy(end, packed, (size_t)left);
    for (int i = 0; i < REGISTERS; i++) {
        words w;
        for (int lane = 0; lane < WORDS; lane++) {
            uint64_t word;
            memcpy(&word, packed + (i * WORDS + lane) * e->bits, 8);
            w[lane] = word;
        }
        w = (w & e->four) | (w >> 4 * e->bits & e->four) << 32;
        w = (w & e->two) | (w >> 2 * e->bits & e->two) << 16;
        codes[i] = (w & e->one) | (w >> e->bits & e->one) << 8;
    }
}

static inline void unpack_codes(const expansion *e, const uint8_t *packed, int64_t left, uint8_t codes[CHUNK])
{
    words w[REGISTERS];
    expand(e, packed, left, w);
    memcpy(codes, w, CHUNK);
}

#endif
