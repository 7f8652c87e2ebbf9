/* A layer with outliers as numbers: levels looked up. */

#include "outlier.h"

static inline void look_up(const float levels[LEVELS], const uint8_t *codes, const uint8_t *marks, float values[CHUNK])
{
#ifdef WIDE_CODES
    for (int i = 0; i < CHUNK; i += 16) {
        const __m128i here = _mm_or_si128(_mm_loadu_si128((const __m128i *)(codes + i)),
                                          _mm_loadu_si128((const __m128i *)(marks + i)));
        _mm512_storeu_ps(values + i, _mm512_permutex2var_ps(_mm512_loadu_ps(levels), _mm512_cvtepu8_epi32(here),
                                                            _mm512_loadu_ps(levels + 16)));
    }
#else
    for (int i = 0; i < CHUNK; i++)
        values[i] = levels[codes[i] | marks[i]];
#endif
}

/* W: (m, n) in float32 or bfloat16, rows start .. stop - 1; the other pointer is NULL. */
void outlier_unpack(const uint8_t *codes, const uint8_t *gaps, const uint16_t *levels, const uint16_t *ends, int bits,
                    int gap_bits, int symbols, int m, int n, int start, int stop, float *W, uint16_t *W_short)
{
    const outlier_layer l = outlier_layer_of(codes, gaps, levels, ends, bits, gap_bits, symbols, m, n);
    const expansion e = expansion_of(bits), gap = expansion_of(gap_bits);
    outliers o;
    for (int64_t row = start; row < stop; row++) {
        float numbers[LEVELS];
        levels_of(&l, row, numbers);
        no_outliers(&l, &o);
        for (int64_t column = 0; column < n; column += CHUNK) {
            const int64_t at = row * n + column, count = n - column < CHUNK ? n - column : CHUNK;
            uint8_t here[CHUNK];
            float values[CHUNK];
            if (column % BLOCK == 0)
                mark_block(&l, &gap, row, column, &o);
            unpack_codes(&e, codes_at(&l, row, column), bytes_left(&l, row, column), here);
            look_up(numbers, here, o.marks + column % BLOCK, values);
            if (W)
                memcpy(W + at, values, (size_t)count * sizeof(float));
            else
                for (int64_t i = 0; i < count; i++)
                    W_short[at + i] = to_bfloat16(values[i]);
        }
    }
}
