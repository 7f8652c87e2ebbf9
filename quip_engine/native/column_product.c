/* y = x W~^T for the layers of codebooks/column_trellis.py. */

#include "column_trellis.h"

/* y: (b, m) of x: (b, n), rows of the sequences start .. stop - 1. */
void column_product(const column_layer *a, const float *x, int64_t b, float *y, int64_t start, int64_t stop)
{
    const int64_t m = a->m, n = a->n, T = a->T, groups = (n + a->group - 1) / a->group;
    const int64_t low = start * T, high = stop * T < m ? stop * T : m;
    uint64_t words[WORDS];
    float values[LONGEST + 8];
    for (int64_t r = 0; r < b; r++)
        memset(y + r * m + low, 0, (high - low) * sizeof *y);
    column_group group = {0};
    for (int64_t g = 0; g < groups; g++) {
        group = next_group(a, g, group);
        for (int64_t s = start; s < stop && group.bits; s++) {
            const int64_t row = s * T, rows = m - row < T ? m - row : T;
            for (int64_t i = 0; i < group.columns; i++) {
                copy_string(a, group.at + (i * a->S + s) * group.bits, group.bits, words);
                decode_string(a, words, group.eighths, values);
                for (int64_t r = 0; r < b; r++) {
                    const float factor = x[r * n + group.first + i] * group.factor;
                    float *sum = y + r * m + row;
                    for (int64_t t = 0; t < rows; t++)
                        sum[t] += factor * values[t];
                }
            }
        }
    }
    for (int64_t i = low; a->row_scales && i < high; i++)
        for (int64_t r = 0; r < b; r++)
            y[r * m + i] *= a->row_powers[code_at(a->row_scales, 6, i)];
}
