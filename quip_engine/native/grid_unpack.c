/* A layer of a uniform grid as numbers: step (code - zero), in the arithmetic of codebooks/grid.py. */

#include "grid.h"

/* W: (m, n) in float32 or bfloat16, rows start .. stop - 1; the other pointer is NULL. */
void grid_unpack(const uint8_t *codes, const float *scale, const uint16_t *steps, const uint8_t *zeros, int bits, int m,
                 int n, int group, int start, int stop, float *W, uint16_t *W_short)
{
    const grid g = grid_of(codes, scale, steps, zeros, bits, m, n, group);
    const expansion e = expansion_of(bits);
    for (int64_t row = start; row < stop; row++)
        for (int64_t k = 0; k < g.groups; k++) {
            const span s = span_of(&g, k);
            const float step = step_of(&g, row, k), zero = zero_of(&g, row, k);
            for (int64_t column = s.first; column < s.stop; column += CHUNK) {
                uint8_t here[CHUNK];
                float values[CHUNK];
                int64_t from = s.start > column ? s.start - column : 0;
                int64_t count = (s.stop - column < CHUNK ? s.stop - column : CHUNK) - from;
                int64_t at = row * n + column + from;
                unpack_codes(&e, codes_at(&g, row, column), bytes_left(&g, row, column), here);
                for (int i = 0; i < CHUNK; i++)
                    values[i] = step * ((float)here[i] - zero);
                if (W)
                    memcpy(W + at, values + from, (size_t)count * sizeof(float));
                else
                    for (int64_t i = 0; i < count; i++)
                        W_short[at + i] = to_bfloat16(values[from + i]);
            }
        }
}
