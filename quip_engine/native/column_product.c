/* y = x W~^T for the layers of codebooks/column_trellis.py: for each group of columns, the fastest way there is. */

#include "column_computed.h"
#include "column_numbered.h"

enum { RATES = 64 };

/* What products run on; `computed`: with computed values. */
const char *column_product_name(int computed)
{
    (void)computed;
#ifdef COMPUTED
    if (computed)
        return "AVX-512 VBMI, GFNI and VNNI";
#endif
#ifdef WINDOWS_IN_VECTORS
    return "AVX-512 VBMI";
#else
    return "C";
#endif
}

static void add_decoded(const column_layer *a, const column_group *group, int64_t s, const float *x, int64_t b, float *y)
{
    const int64_t row = s * a->T, rows = a->m - row < a->T ? a->m - row : a->T;
    uint64_t words[WORDS];
    float values[LONGEST + 8];
    for (int64_t i = 0; i < group->columns; i++) {
        copy_string(a, group->at + (i * a->S + s) * group->bits, group->bits, words);
        decode_string(a, words, group->eighths, values);
        for (int64_t r = 0; r < b; r++) {
            const float factor = x[r * a->n + i] * group->factor;
            float *sum = y + r * a->m + row;
            for (int64_t t = 0; t < rows; t++)
                sum[t] += factor * values[t];
        }
    }
}

/* How the groups of one rate are read; made when the first one is met. */
typedef struct {
    enum { UNKNOWN, DECODED, NUMBERED, COMPUTED_VALUES } way;
#ifdef WINDOWS_IN_VECTORS
    numbering numbers;
#endif
#ifdef COMPUTED
    key_cuts keys[2];
#endif
} reading;

static void read_at(const column_layer *a, int64_t eighths, int computed, reading *how)
{
    how->way = DECODED;
#ifdef WINDOWS_IN_VECTORS
    if (eighths < 8) /* windows of the second 32 rows would wrap, and steps without bits need the second table */
        return;
#ifdef COMPUTED
    if (computed) {
        how->way = COMPUTED_VALUES;
        for (int half = 0; half < 2; half++)
            how->keys[half] = key_cuts_of(a, eighths, half);
        return;
    }
#endif
    how->way = NUMBERED;
    how->numbers = numbering_of(a, eighths);
#endif
    (void)a, (void)eighths, (void)computed;
}

/* y += x W~^T of the columns of a group, rows of the strings start .. stop - 1. */
static void add_group(const column_layer *a, const reading *how, const column_group *group, const float *x, int64_t b,
                      float *y, int64_t start, int64_t stop)
{
#ifdef COMPUTED
    if (how->way == COMPUTED_VALUES)
        return add_computed(a, group, how->keys, x, b, y, start, stop);
#endif
#ifdef WINDOWS_IN_VECTORS
    for (int64_t s = start; s < stop && how->way == NUMBERED; s++)
        add_numbered(a, &how->numbers, group, s, x, b, y);
#endif
    for (int64_t s = start; s < stop && how->way == DECODED; s++)
        add_decoded(a, group, s, x, b, y);
}

/* y: (b, m) of x: (b, n), rows of the strings start .. stop - 1; `computed`: with computed values where that can be. */
void column_product(const column_layer *a, const float *x, int64_t b, int computed, float *y, int64_t start,
                    int64_t stop)
{
    const int64_t m = a->m, n = a->n, groups = (n + a->group - 1) / a->group;
    const int64_t low = start * a->T, high = stop * a->T < m ? stop * a->T : m;
    for (int64_t r = 0; r < b; r++)
        memset(y + r * m + low, 0, (high - low) * sizeof *y);
    reading readings[RATES];
    for (int i = 0; i < RATES; i++)
        readings[i].way = UNKNOWN;
    column_group group = {0};
    for (int64_t g = 0; g < groups; g++) {
        group = next_group(a, g, group);
        reading *how = &readings[group.eighths];
        if (how->way == UNKNOWN)
            read_at(a, group.eighths, computed, how);
        for (int64_t r = 0; r < b && group.bits; r += ROWS)
            add_group(a, how, &group, x + r * n + group.first, b - r < ROWS ? b - r : ROWS, y + r * m, start, stop);
    }
    for (int64_t i = low; a->row_scales && i < high; i++)
        for (int64_t r = 0; r < b; r++)
            y[r * m + i] *= a->row_powers[code_at(a->row_scales, 6, i)];
}
