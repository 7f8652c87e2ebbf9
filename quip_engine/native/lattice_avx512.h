/* A chunk of 64 codes against x, all of it in AVX-512 registers.
 *
 * A weight becomes a nibble, which a table of 16 values decodes. A chunk is held as d / 2 planes: byte i of plane p
 * holds coordinates 2 p (low nibble) and 2 p + 1 of code i.
 *
 *   table codes   two vpermi2b look a plane up, half of the 256 entries each; the index's top bit chooses between them
 *   E8P           nibble = magnitude (2 bits) | sign << 2 | shift << 3. Magnitudes: the same lookup in two planes of
 *                 bit pairs, 4 coordinates to a byte. Signs and shift are sums of bits of z (codebooks/e8p_points.py):
 *                 a product with a bit matrix (GFNI) makes those of a plane. The sign of coordinate 7 also counts the
 *                 magnitude's odd coordinates, the low bits of its pairs: one more such product.
 *
 * vpermb turns a nibble of each byte into w + 16 (the bits above it do not matter: the table is repeated), vpdpbusd
 * adds the products of 4 neighbouring bytes, one coordinate of 4 codes. After 4 coordinates a lane has the sum of a
 * group of 16 columns, exactly: then digits are joined as floats, and the group takes its scale.
 */

#pragma once

#include <immintrin.h>

#include "lanes.h"
#include "lattice.h"

INLINE __m512i look_up(const uint8_t *table, __m512i index)
{
    __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), index, _mm512_loadu_si512(table + 64));
    __m512i high = _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), index, _mm512_loadu_si512(table + 192));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
}

/* Row r of a bit matrix, which makes bit r of the product, is byte 7 - r. Of plane p, bits 2 and 6 are the signs of
 * coordinates 2 p and 2 p + 1: bits p and p + 4 of z, for bit 0 the parity of all others. Bits 3 and 7: that of all. */
#define ROW(r, bits) ((uint64_t)(bits) << 8 * (7 - (r)))
#define SIGNS(p) (ROW(2, (p) ? 1 << (p) : 0xFE) | ROW(6, 16 << (p)) | ROW(3, 0xFF) | ROW(7, 0xFF))
#define ODD ROW(6, 0x55)

INLINE __m512i bit_product(__m512i bytes, uint64_t matrix)
{
    return _mm512_gf2p8affine_epi64_epi8(bytes, _mm512_set1_epi64(matrix), 0);
}

INLINE __m512i join(__m512i pairs, __m512i signs) /* (pairs & 0x33) | signs */
{
    return _mm512_ternarylogic_epi64(pairs, _mm512_set1_epi8(0x33), signs, 0xEA);
}

INLINE void e8p_planes(const lattice_stage *s, const uint8_t *codes, __m512i *plane)
{
    static const uint8_t even[64] = {
        0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26,  28,  30,  32,  34,  36,  38,  40,  42,
        44, 46, 48, 50, 52, 54, 56, 58, 60, 62, 64, 66, 68, 70,  72,  74,  76,  78,  80,  82,  84,  86,
        88, 90, 92, 94, 96, 98, 100, 102, 104, 106, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126};
    __m512i first = _mm512_loadu_si512(codes), second = _mm512_loadu_si512(codes + 64);
    __m512i places = _mm512_loadu_si512(even), z = _mm512_permutex2var_epi8(first, places, second);
    __m512i a = _mm512_permutex2var_epi8(first, _mm512_or_si512(places, _mm512_set1_epi8(1)), second);
    __m512i low = look_up(s->planes, a), high = look_up(s->planes + 256, a);
    __m512i odd = bit_product(_mm512_xor_si512(low, high), ODD);
    plane[0] = join(low, bit_product(z, SIGNS(0)));
    plane[1] = join(_mm512_srli_epi64(low, 2), bit_product(z, SIGNS(1)));
    plane[2] = join(high, bit_product(z, SIGNS(2)));
    plane[3] = join(_mm512_srli_epi64(high, 2), _mm512_xor_si512(bit_product(z, SIGNS(3)), odd));
}

INLINE void planes_of(const lattice_stage *s, int64_t kind, const uint8_t *codes, __m512i *plane)
{
    if (kind == E8P_CODES) {
        e8p_planes(s, codes, plane);
        return;
    }
    for (int p = 0; p < dimension_of(kind) / 2; p++)
        plane[p] = look_up(s->planes + 256 * p, _mm512_loadu_si512(codes));
}

INLINE const lattice_slice *slice_of(const uint8_t *x) { return (const lattice_slice *)x; }

/* Add the products of a chunk of codes with the first digits of `rows` rows of x, `stride` bytes apart, to the sums. */
INLINE void add_products(const lattice_stage *s, int64_t kind, const uint8_t *codes, const uint8_t *x, int64_t stride,
                         int int8, int digits, int rows, reals *sums)
{
    int parts = dimension_of(kind) / 4;
    __m128i values = _mm_add_epi8(_mm_loadu_si128((const __m128i *)s->values), _mm_set1_epi8(16));
    __m512i table = _mm512_broadcast_i32x4(values), plane[4], sum[ROWS][3];
    planes_of(s, kind, codes, plane);
#pragma GCC unroll 2
    for (int part = 0; part < parts; part++, x += slice_bytes(int8)) {
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
            for (int k = 0; k < digits; k++)
                sum[r][k] = _mm512_loadu_si512(slice_of(x + r * stride)->numbers[k].start);
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            __m512i w = _mm512_permutexvar_epi8(_mm512_srli_epi32(plane[2 * part + c / 2], c % 2 * 4), table);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
                for (int k = 0; k < digits; k++) {
                    __m512i q = _mm512_loadu_si512(slice_of(x + r * stride)->numbers[k].digits[c]);
                    sum[r][k] = _mm512_dpbusd_epi32(sum[r][k], w, q);
                }
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            __m512 whole = _mm512_cvtepi32_ps(sum[r][0]);
#pragma GCC unroll 3
            for (int k = 1; k < digits_of(int8); k++) {
                __m512 next = k < digits ? _mm512_cvtepi32_ps(sum[r][k]) : _mm512_setzero_ps();
                whole = _mm512_fmadd_ps(whole, _mm512_set1_ps(256), next);
            }
            sums[r] = _mm512_fmadd_ps(whole, _mm512_loadu_ps(slice_of(x + r * stride)->scales), sums[r]);
        }
    }
}
