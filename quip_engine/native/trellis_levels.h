/* Tiles of the trellis code ``levels`` with AVX-512 VBMI: 64 weights, four rows of a tile, at a time.

   A level is number f = (3 rev(x) + x without its lower half) mod 2^L, by its upper 8 bits (codebooks/trellis_codes.py).
   Put at the upper end of 16 bits, the second term lies in the upper 8 alone, and so only the carry of the first ever
   leaves the lower 8. So all is done in lanes of 8 bits:

   - The bytes of a tile are mirrored. Then rev(x) is the 16 bits that end at bit (t + 1) k, but for their lower 16 - L,
     and the first bits of x are the byte from bit (t + 1) k - L on, to be mirrored back.
   - A shuffle brings the bits of 8 weights, and the 16 before them, to each lane of 64 bits. As k bits are the same
     share of a byte for all lanes, three multishifts with the same shifts everywhere cut out what is wanted.
   - 3 low carries 1 from 256 / 3 on and 2 from 512 / 3 on: two comparisons. Bits of ``low`` that are no part of x change
     nothing, as both bounds are rounded up to numbers without them.
   - The 256 levels lie in four registers. */

#ifndef QUIP_TRELLIS_LEVELS_H
#define QUIP_TRELLIS_LEVELS_H

#include "trellis_states.h"

#if defined(TRELLIS_AVX512) && defined(__AVX512VBMI__) && defined(__GFNI__)
#define TRELLIS_LEVELS 1

enum { ROWS = 4, QUARTERS = TILE / ROWS }; /* rows that are decoded together */

typedef struct {
    __m512i bytes[QUARTERS];      /* which ones each lane of 64 bits gets */
    __m512i high, low, oldest;    /* shifts: to the bits of rev(x), to the first ones of x */
    __m512i first;                /* the matrix that mirrors the first bits and masks them */
    __m512i below_one, below_two; /* what ``low`` exceeds to carry */
    __m512i levels[4];
} level_reader;

/* The matrix by which bit i of a byte becomes bit 7 - i. Its lowest byte makes the highest bit. */
#define MIRROR 0x8040201008040201ull

INLINE level_reader level_reader_of(const trellis_layer *layer)
{
    const int k = layer->k, L = layer->L, unit = 1 << (16 - L), others = 8 * (8 - (L - L / 2));
    level_reader reader;
    uint8_t bytes[64], shifts[8];
    for (int quarter = 0; quarter < QUARTERS; quarter++) {
        for (int i = 0; i < 64; i++) {
            int at = ((8 * quarter + i / 8) * k - 2 + i % 8 + 32 * k) % (32 * k);
            bytes[i] = (uint8_t)(at < 64 ? at : at + 128 - 32 * k);
        }
        reader.bytes[quarter] = _mm512_loadu_si512(bytes);
    }
    for (int i = 0; i < 8; i++)
        shifts[i] = (uint8_t)((i + 1) * k);
    int64_t low;
    memcpy(&low, shifts, 8);
    reader.low = _mm512_set1_epi64(low);
    reader.high = _mm512_add_epi8(reader.low, _mm512_set1_epi8(8));
    reader.oldest = _mm512_add_epi8(reader.low, _mm512_set1_epi8((char)(16 - L)));
    reader.below_one = _mm512_set1_epi8((char)((86 + unit - 1) / unit * unit - 1));
    reader.below_two = _mm512_set1_epi8((char)((171 + unit - 1) / unit * unit - 1));
    reader.first = _mm512_set1_epi64((int64_t)(MIRROR << others >> others));
    for (int i = 0; i < 4; i++) /* 128 more than they are */
        reader.levels[i] = _mm512_xor_si512(_mm512_loadu_si512((const char *)layer->table + 64 * i),
                                            _mm512_set1_epi8((char)128));
    return reader;
}

/* The first and the last 64 bytes of a tile, mirrored. */
typedef struct {
    __m512i first, last;
} tile_bytes;

INLINE tile_bytes mirrored(const uint8_t *tile, int k)
{
    const __m512i mirror = _mm512_set1_epi64((int64_t)MIRROR);
    __m512i first = k > 1 ? _mm512_loadu_si512(tile) : _mm512_castsi256_si512(_mm256_loadu_si256((const void *)tile));
    __m512i last = k > 2 ? _mm512_loadu_si512(tile + 32 * k - 64) : first;
    first = _mm512_gf2p8affine_epi64_epi8(first, mirror, 0);
    last = _mm512_gf2p8affine_epi64_epi8(last, mirror, 0);
    return (tile_bytes){first, last};
}

/* The levels of four rows, one after the other, and 128 more than they are. */
INLINE __m512i levels_of(tile_bytes tile, int quarter, int k, const level_reader *reader)
{
    const __m512i all = _mm512_set1_epi8(-1), bytes = reader->bytes[quarter];
    __m512i bits = k > 2 ? _mm512_permutex2var_epi8(tile.first, bytes, tile.last)
                         : _mm512_permutexvar_epi8(bytes, tile.first);
    __m512i high = _mm512_multishift_epi64_epi8(reader->high, bits);
    __m512i low = _mm512_multishift_epi64_epi8(reader->low, bits);
    __m512i oldest = _mm512_multishift_epi64_epi8(reader->oldest, bits);
    __m512i number = _mm512_add_epi8(_mm512_gf2p8affine_epi64_epi8(oldest, reader->first, 0), high);
    number = _mm512_add_epi8(_mm512_add_epi8(high, high), number);
    number = _mm512_mask_sub_epi8(number, _mm512_cmpgt_epu8_mask(low, reader->below_one), number, all);
    number = _mm512_mask_sub_epi8(number, _mm512_cmpgt_epu8_mask(low, reader->below_two), number, all);
    __m512i lower = _mm512_permutex2var_epi8(reader->levels[0], number, reader->levels[1]);
    __m512i upper = _mm512_permutex2var_epi8(reader->levels[2], number, reader->levels[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(number), lower, upper);
}

#endif
#endif
