/* W~ of codebooks/column_trellis.py. Strings run down its columns: some of these are decoded, then turned into rows. */

#include "column_numbered.h"
#include "half.h"

enum { ACROSS = 32, RATES = 64 }; /* columns decoded before their rows are written: 64 bytes of each in bfloat16 */

typedef struct {
    union {
        float whole[ACROSS][LONGEST];
        uint16_t half[ACROSS][LONGEST]; /* bfloat16 */
    };
    float row_scales[LONGEST], values[ACROSS][LONGEST + 8];
#ifdef WINDOWS_IN_VECTORS
    numbering numbers[RATES]; /* by eighths */
    char known[RATES];
#endif
} workspace;

/* Values of string s of the columns of a group from number `first` on, in units of the group's factor. */
static void decode_columns(const column_layer *a, const column_group *group, int64_t s, int64_t first, int64_t count,
                           workspace *w)
{
    uint64_t words[WORDS];
#ifdef WINDOWS_IN_VECTORS
    if (group->eighths >= 8) {
        numbering *numbers = &w->numbers[group->eighths];
        uint16_t at[ACROSS][BLOCKS][64];
        if (!w->known[group->eighths])
            *numbers = numbering_of(a, group->eighths), w->known[group->eighths] = 1;
        for (int64_t i = 0; i < count; i++) {
            const string_bits string = find_string(a, group, first + i, s, words);
            for (int64_t k = 0; k * BLOCK < a->T; k++)
                for (int half = 0; half < numbers->halves; half++)
                    _mm512_storeu_si512(at[i][k] + 32 * half, numbers_of(numbers, half, &string, k, group->eighths));
        }
        for (int64_t i = 0; i < count; i++)
            for (int64_t k = 0; k * BLOCK < a->T; k++) {
                __m512 value[4];
                if (numbers->halves == 1)
                    load_values(numbers->table, 1, at[i][k], value);
                else
                    load_values(numbers->table, 2, at[i][k], value);
                memcpy(w->values[i] + k * BLOCK, value, sizeof value);
            }
        return;
    }
#endif
    for (int64_t i = 0; i < count; i++) {
        copy_string(a, group->at + ((first + i) * a->S + s) * group->bits, group->bits, words);
        decode_string(a, words, group->eighths, w->values[i]);
    }
}

#ifdef WINDOWS_IN_VECTORS
/* 32 rows of `half` from t on: five times, the upper and the lower half of all numbers are interleaved. */
static void turn(const workspace *w, int64_t t, __m512i row[ACROSS])
{
    uint16_t low[32], high[32];
    for (int i = 0; i < 32; i++) {
        low[i] = i / 2 + 32 * (i & 1);
        high[i] = low[i] + 16;
    }
    const __m512i lower = _mm512_loadu_si512(low), upper = _mm512_loadu_si512(high);
    __m512i other[ACROSS];
    for (int i = 0; i < ACROSS; i++)
        other[i] = _mm512_loadu_si512(w->half[i] + t);
    for (int round = 0; round < 5; round++) {
        __m512i *from = round & 1 ? row : other, *to = round & 1 ? other : row;
        for (int i = 0; i < ACROSS / 2; i++) {
            to[2 * i] = _mm512_permutex2var_epi16(from[i], lower, from[i + ACROSS / 2]);
            to[2 * i + 1] = _mm512_permutex2var_epi16(from[i], upper, from[i + ACROSS / 2]);
        }
    }
}
#endif

/* The rows of `count` columns to where the first one of these begins. */
static void write_rows(const workspace *w, int64_t rows, int64_t count, int64_t n, int bfloat16, void *out)
{
    int64_t t = 0;
#ifdef WINDOWS_IN_VECTORS
    for (; bfloat16 && count == ACROSS && t + 32 <= rows; t += 32) {
        __m512i row[ACROSS];
        for (int64_t j = 0; j < 32; j++)
            __builtin_prefetch((uint16_t *)out + (t + j) * n + ACROSS, 1); /* what is written next there */
        turn(w, t, row);
        for (int64_t j = 0; j < 32; j++)
            memcpy((uint16_t *)out + (t + j) * n, &row[j], sizeof *row);
    }
#endif
    for (; t < rows; t++)
        for (int64_t i = 0; i < count; i++)
            if (bfloat16)
                ((uint16_t *)out)[t * n + i] = w->half[i][t];
            else
                ((float *)out)[t * n + i] = w->whole[i][t];
}

/* Numbers of a column, number `to` of those that are written together. */
static void scale_column(workspace *w, const float *values, float factor, int64_t rows, int bfloat16, int64_t to)
{
    if (bfloat16)
        for (int64_t t = 0; t < rows; t++)
            w->half[to][t] = to_bfloat16(values[t] * factor * w->row_scales[t]);
    else
        for (int64_t t = 0; t < rows; t++)
            w->whole[to][t] = values[t] * factor * w->row_scales[t];
}

/* out: (m, n) float, or bfloat16 in 16 bits each; rows of the strings start .. stop - 1. */
void column_unpack(const column_layer *a, void *out, int bfloat16, int64_t start, int64_t stop)
{
    const int64_t T = a->T, groups = (a->n + a->group - 1) / a->group, size = bfloat16 ? 2 : 4;
    workspace w;
#ifdef WINDOWS_IN_VECTORS
    memset(w.known, 0, sizeof w.known);
#endif
    for (int64_t s = start; s < stop; s++) {
        const int64_t row = s * T, rows = a->m - row < T ? a->m - row : T;
        for (int64_t t = 0; t < rows; t++)
            w.row_scales[t] = a->row_scales ? a->row_powers[code_at(a->row_scales, 6, row + t)] : 1;
        column_group group = {0};
        for (int64_t g = 0; g < groups; g++) {
            group = next_group(a, g, group);
            for (int64_t i = 0, count; i < group.columns; i += count) {
                const int64_t column = group.first + i, to = column % ACROSS, left = group.columns - i;
                count = left < ACROSS - to ? left : ACROSS - to;
                if (group.bits)
                    decode_columns(a, &group, s, i, count, &w);
                else
                    memset(w.values, 0, count * sizeof *w.values);
                for (int64_t j = 0; j < count; j++)
                    scale_column(&w, w.values[j], group.factor, rows, bfloat16, to + j);
                if (to + count == ACROSS || column + count == a->n)
                    write_rows(&w, rows, to + count, a->n, bfloat16,
                               (char *)out + (row * a->n + column - to) * size);
            }
        }
    }
}
