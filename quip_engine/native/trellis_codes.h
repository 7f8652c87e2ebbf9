/* Rows of trellis tiles with AVX-512: the computed codes of codebooks/trellis_codes.py, 16 states at a time. A part of
   trellis_states.h. */

#ifndef QUIP_TRELLIS_CODES_H
#define QUIP_TRELLIS_CODES_H

#include "trellis_states.h"

/* The values of a row of a tile. */
typedef __m512 row;

/* How 16 bytes are read that hold a row of a tile and two bytes before it. They begin two bytes before it in the upper
   half of a tile and end with it in the lower, so that no byte outside the tile is touched. */
typedef struct {
    __m512i bytes, shift, mask;
    int64_t at; /* the first of the 16, from the first byte of the row on */
} row_reader;

INLINE row_reader reader_of(int r, int k, int L)
{
    _Alignas(64) uint8_t bytes[64];
    _Alignas(64) int32_t shift[16];
    int at = r < TILE / 2 ? -2 : 2 * k - 16;
    for (int t = 0; t < TILE; t++) {
        int bit = (t + 1) * k, end = (bit + 7) / 8;
        shift[t] = 8 * end - bit;
        for (int i = 0; i < 4; i++) {
            int from = end - 1 - i - at;
            bytes[4 * t + i] = (uint8_t)(from >= 0 && from < 16 ? from : 128);
        }
    }
    return (row_reader){_mm512_load_si512(bytes), _mm512_load_si512(shift), _mm512_set1_epi32((1 << L) - 1), at};
}

/* The states of row r. Row 0 ``wraps``: the two bytes before it are the last of the tile. */
INLINE __m512i row_states(const uint8_t *tile, int r, int k, int wraps, const row_reader *reader)
{
    __m128i bytes = _mm_loadu_si128((const void *)(tile + (wraps && r == 0 ? 0 : 2 * k * r + reader->at)));
    if (wraps && r == 0)
        bytes = _mm_alignr_epi8(bytes, _mm_loadu_si128((const void *)(tile + 32 * k - 16)), 14);
    __m512i windows = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), reader->bytes);
    return _mm512_and_si512(_mm512_srlv_epi32(windows, reader->shift), reader->mask);
}

/* Rounded to float16, ties to even, where that is not below 2^-14: x + 2^(e + 13) has the precision of a float16 in
   2^e .. 2^(e + 1). */
INLINE __m512 to_half(__m512 x)
{
    const __m512 power = _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xFF800000)));
    const __m512 far = _mm512_set1_ps(8192);
    return _mm512_fnmadd_ps(power, far, _mm512_fmadd_ps(power, far, x));
}

/* mul1: (1024 + sum of bytes) a + b, a and b being the float16 0x1EEE and 0xC931. */
#define MUL1_SLOPE 0x1.bb8p-8f
#define MUL1_OFFSET -0x1.4c4p3f

/* The words whose bytes are summed, of ONE_MAD and MUL1. */
INLINE __m512i words_of(__m512i states, int way)
{
    if (way == MUL1)
        return _mm512_mullo_epi32(states, _mm512_set1_epi32((int)0x83DCD12D));
    return _mm512_add_epi32(_mm512_mullo_epi32(states, _mm512_set1_epi32(34038481)), _mm512_set1_epi32(76625530));
}

/* Half of a word of THREE_INST, in the upper 16 bits, as a float32. The two upper bits of its exponent, which are the
   same for all, are those of ``magic``; so the others may move over by three places as they are. */
INLINE __m512 half_of(__m512i y)
{
    const __m512i mask = _mm512_set1_epi32((int)0x81FFE000), magic = _mm512_set1_epi32(0x3F6C0000);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_srai_epi32(y, 3), mask, magic, 0x6A));
}

/* Values as they are defined, before they are divided by their rms. */
INLINE row values_of(__m512i states, int way)
{
    if (way == THREE_INST) {
        __m512i y = _mm512_mullo_epi32(states, _mm512_set1_epi32(89226354));
        y = _mm512_add_epi32(y, _mm512_set1_epi32(64248484));
        return to_half(_mm512_add_ps(half_of(y), half_of(_mm512_slli_epi32(y, 16))));
    }
    __m512i sums = _mm512_set1_epi32(way == MUL1 ? 1024 : -510);
    sums = _mm512_dpbusd_epi32(sums, words_of(states, way), _mm512_set1_epi8(1));
    row values = _mm512_cvtepi32_ps(sums);
    if (way == ONE_MAD)
        return values;
    return to_half(_mm512_fmadd_ps(values, _mm512_set1_ps(MUL1_SLOPE), _mm512_set1_ps(MUL1_OFFSET)));
}

INLINE row row_values(const trellis_layer *layer, const uint8_t *tile, int r, int wraps, int way,
                      const row_reader *reader)
{
    if (way > TWO_EACH)
        return values_of(row_states(tile, r, layer->k, wraps, reader), way);
    four values[4];
    looked_up(layer, tile, r, wraps, way, values);
    __m512 all = _mm512_castps128_ps512((__m128)values[0]);
    all = _mm512_insertf32x4(all, (__m128)values[1], 1);
    all = _mm512_insertf32x4(all, (__m128)values[2], 2);
    return _mm512_insertf32x4(all, (__m128)values[3], 3);
}

INLINE row plus_product(row sum, row values, const float *x)
{
    return _mm512_fmadd_ps(values, _mm512_loadu_ps(x), sum);
}

INLINE row times(row values, float scale) { return _mm512_mul_ps(values, _mm512_set1_ps(scale)); }

INLINE float total_of(row sum) { return _mm512_reduce_add_ps(sum); }

#endif
