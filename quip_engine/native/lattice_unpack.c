/* W~ from lattice codes as float32 or bfloat16, the stages added before anything is rounded.
 *
 * With AVX-512 the planes of a chunk (lattice_avx512.h) are interleaved to words of 8 nibbles, 8 columns each; a
 * permutation spreads two words over 16 lanes, each lane shifts to its own nibble, and vpermps decodes all to floats.
 */

#include "half.h"
#include "lattice.h"

#if LATTICE_AVX512

#include "lattice_avx512.h"

/* w: (64 d), written or added to. Lane l of 128 bits of word[k] has the nibbles of columns 32 (l d / 2 + k) and on. */
INLINE void unpack_chunk(const lattice_stage *s, int64_t kind, const uint8_t *codes, int add, float *w)
{
    __m512i plane[4], word[4], nibbles = _mm512_set_epi32(28, 24, 20, 16, 12, 8, 4, 0, 28, 24, 20, 16, 12, 8, 4, 0);
    __m512 values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)s->values)));
    values = _mm512_mul_ps(values, _mm512_set1_ps(s->factor));
    int count = dimension_of(kind) / 2;
    planes_of(s, kind, codes, plane);
    word[0] = _mm512_unpacklo_epi8(plane[0], plane[1]);
    word[1] = _mm512_unpackhi_epi8(plane[0], plane[1]);
    if (count == 4) {
        __m512i low = _mm512_unpacklo_epi8(plane[2], plane[3]), high = _mm512_unpackhi_epi8(plane[2], plane[3]);
        word[3] = _mm512_unpackhi_epi16(word[1], high);
        word[2] = _mm512_unpacklo_epi16(word[1], high);
        word[1] = _mm512_unpackhi_epi16(word[0], low);
        word[0] = _mm512_unpacklo_epi16(word[0], low);
    }
#pragma GCC unroll 4
    for (int lane = 0; lane < 4; lane++)
#pragma GCC unroll 4
        for (int k = 0; k < count; k++)
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++, w += 16) {
                __m512i first = _mm512_set1_epi32(4 * lane + 2 * half), step = _mm512_set1_epi32(1);
                __m512i index = _mm512_mask_add_epi32(first, 0xFF00, first, step);
                __m512i shifted = _mm512_srlv_epi32(_mm512_permutexvar_epi32(index, word[k]), nibbles);
                __m512 here = _mm512_permutexvar_ps(shifted, values);
                _mm512_storeu_ps(w, add ? _mm512_add_ps(_mm512_loadu_ps(w), here) : here);
            }
}

#else

INLINE void unpack_chunk(const lattice_stage *s, int64_t kind, const uint8_t *codes, int add, float *w)
{
    int8_t points[CODES * WIDEST];
    float factor = s->factor;
    decode_chunk(s, kind, codes, points);
    if (add)
        for (int j = 0; j < CODES * dimension_of(kind); j++)
            w[j] += factor * points[j];
    else
        for (int j = 0; j < CODES * dimension_of(kind); j++)
            w[j] = factor * points[j];
}

#endif

INLINE void unpack(const lattice_stage *s, int64_t kind, int64_t i, int64_t n, int64_t chunk, int add, float *w)
{
    uint8_t copy[2 * CODES];
    unpack_chunk(s, kind, chunk_of(kind, s->codes + i * length_of(kind, n), n, chunk, copy), add, w);
}

/* out: (m, n), its rows start to stop. */
void lattice_unpack(const lattice_stage *stages, int64_t count, int64_t n, int bfloat16, void *out, int64_t start,
                    int64_t stop)
{
    int64_t width = CODES * dimension_of(stages->kind);
    for (int64_t i = start; i < stop; i++)
        for (int64_t first = 0; first < n; first += width) {
            int64_t columns = n - first < width ? n - first : width, at = i * n + first;
            float part[CODES * WIDEST], *w = bfloat16 || columns < width ? part : (float *)out + at;
            for (int64_t k = 0; k < count; k++) {
                const lattice_stage *s = stages + k;
                if (s->kind == E8P_CODES)
                    unpack(s, E8P_CODES, i, n, first / width, k > 0, w);
                else if (s->kind == TABLE_OF_8)
                    unpack(s, TABLE_OF_8, i, n, first / width, k > 0, w);
                else
                    unpack(s, TABLE_OF_4, i, n, first / width, k > 0, w);
            }
            if (bfloat16)
                for (int64_t j = 0; j < columns; j++)
                    ((uint16_t *)out)[at + j] = to_bfloat16(w[j]);
            else if (w == part)
                memcpy((float *)out + at, w, columns * sizeof *w);
        }
}
