/* W~ of codebooks/column_trellis.py, transposed: the strings run along its rows. */

#include "column_trellis.h"
#include "half.h"

/* W: (n, m) float, or bfloat16 in 16 bits each; columns (rows of W~) of the strings start .. stop - 1. */
void column_unpack(const column_layer *a, void *W, int bfloat16, int64_t start, int64_t stop)
{
    const int64_t m = a->m, T = a->T, groups = (a->n + a->group - 1) / a->group;
    for (int64_t s = start; s < stop; s++) {
        const int64_t row = s * T, rows = m - row < T ? m - row : T;
        uint64_t words[WORDS];
        float values[LONGEST + 8], row_scales[LONGEST];
        for (int64_t t = 0; t < rows; t++)
            row_scales[t] = a->row_scales ? a->row_powers[code_at(a->row_scales, 6, row + t)] : 1;
        column_group group = {0};
        for (int64_t g = 0; g < groups; g++) {
            group = next_group(a, g, group);
            if (!group.bits)
                memset(values, 0, sizeof values);
            for (int64_t i = 0; i < group.columns; i++) {
                const int64_t place = (group.first + i) * m + row;
                if (group.bits) {
                    copy_string(a, group.at + (i * a->S + s) * group.bits, group.bits, words);
                    decode_string(a, words, group.eighths, values);
                }
                if (bfloat16)
                    for (int64_t t = 0; t < rows; t++)
                        ((uint16_t *)W)[place + t] = to_bfloat16(values[t] * group.factor * row_scales[t]);
                else
                    for (int64_t t = 0; t < rows; t++)
                        ((float *)W)[place + t] = values[t] * group.factor * row_scales[t];
            }
        }
    }
}
