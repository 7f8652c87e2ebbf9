/* Products with values looked up, 64 rows at once (AVX-512 VBMI).
 *
 * Numbers of the values are stored for a whole group of columns before the first of them is read, since a load that
 * follows its store too closely waits for it. What the time goes to is loads of values, singly into a register.
 */
#ifndef QUIP_COLUMN_NUMBERED_H
#define QUIP_COLUMN_NUMBERED_H

#include "column_windows.h"

#ifdef WINDOWS_IN_VECTORS
/* Numbers in a table of the windows of a block: 32 of pairs, or 64 of single steps. */
typedef struct {
    int halves;
    cuts cut[2];
    __m512i mask[2], offset[2];
    const float *table;
} numbering;

/* Numbers have 16 bits: two tables of pairs one behind the other, where rates have both, must fit these. */
static inline numbering numbering_of(const column_layer *a, int64_t eighths)
{
    numbering numbers;
    const int64_t k = eighths >> 3, L = a->L;
    const int pairs = paired(a, eighths) && L + k <= WIDEST - (eighths & 7 ? 2 : 0); /* tables of k and k + 1 */
    numbers.halves = pairs ? 1 : 2;
    numbers.table = pairs ? a->pairs + 2 * pair_offset(L, k) : a->values;
    for (int half = 0; half < numbers.halves; half++) {
        int64_t first[32];
        uint16_t mask[32], offset[32];
        for (int i = 0; i < 32; i++) {
            const int64_t step = pairs ? 2 * i : 32 * half + i;
            const int64_t end = ((step + 1) * eighths + 4) >> 3, next = ((step + 2) * eighths + 4) >> 3;
            first[i] = end;
            mask[i] = ((uint32_t)1 << (pairs ? L + next - end : L)) - 1;
            offset[i] = pairs ? (next - end > k) << (L + k) : 0;
        }
        numbers.cut[half] = cuts_at(first, half ? first[0] >> 3 : 0);
        numbers.mask[half] = _mm512_loadu_si512(mask);
        numbers.offset[half] = _mm512_loadu_si512(offset);
    }
    return numbers;
}

/* 32 numbers of block k of a string, of its first or second half. */
static inline __m512i numbers_of(const numbering *numbers, int half, const string_bits *string, int64_t k,
                                 int64_t eighths)
{
    const cuts *cut = &numbers->cut[half];
    const __m512i windows = windows_of(cut, load_block(string, k, eighths, cut->origin), string);
    return _mm512_add_epi16(_mm512_and_si512(windows, numbers->mask[half]), numbers->offset[half]);
}

#define PAIRS_2(i) _mm_loadh_pd(_mm_load_sd(pairs + at[i]), pairs + at[i + 1])
#define PAIRS_4(i) _mm256_insertf128_pd(_mm256_castpd128_pd256(PAIRS_2(i)), PAIRS_2(i + 2), 1)
#define PAIRS_8(i) _mm512_castpd_ps(_mm512_insertf64x4(_mm512_castpd256_pd512(PAIRS_4(i)), PAIRS_4(i + 4), 1))

#define AT(i) _mm_load_ss(singles + at[i])
#define SINGLES_4(i) _mm_insert_ps(_mm_insert_ps(_mm_insert_ps(AT(i), AT(i + 1), 16), AT(i + 2), 32), AT(i + 3), 48)
#define SINGLES_8(i) _mm256_insertf128_ps(_mm256_castps128_ps256(SINGLES_4(i)), SINGLES_4(i + 4), 1)
#define SINGLES_16(i) _mm512_insertf32x8(_mm512_castps256_ps512(SINGLES_8(i)), SINGLES_8(i + 8), 1)

static inline void load_values(const float *singles, int halves, const uint16_t at[64], __m512 value[4])
{
    const double *pairs = (const double *)singles;
    for (int j = 0; j < 4; j++)
        value[j] = halves == 1 ? PAIRS_8(8 * j) : SINGLES_16(16 * j);
}

/* The columns' share of y in the rows of a block. */
static inline __attribute__((always_inline)) void sum_values(const float *table, int halves, uint16_t (*at)[64],
                                                            const column_group *group, const float *x, int64_t n,
                                                            int b, __m512 sum[ROWS][4])
{
    for (int r = 0; r < b; r++)
        for (int j = 0; j < 4; j++)
            sum[r][j] = _mm512_setzero_ps();
    for (int64_t i = 0; i < group->columns; i++) {
        __m512 value[4];
        load_values(table, halves, at[i], value);
        for (int r = 0; r < b; r++)
            for (int j = 0; j < 4; j++)
                sum[r][j] = _mm512_fmadd_ps(_mm512_set1_ps(x[r * n + i] * group->factor), value[j], sum[r][j]);
    }
}

static inline void add_numbered(const column_layer *a, const numbering *numbers, const column_group *group, int64_t s,
                         const float *x, int64_t b, float *y)
{
    const int64_t row = s * a->T, rows = a->m - row < a->T ? a->m - row : a->T;
    uint64_t words[WORDS];
    uint16_t at[BLOCKS][WIDE][64];
    for (int64_t i = 0; i < group->columns; i++) {
        const string_bits string = find_string(a, group, i, s, words);
        for (int64_t k = 0; k * BLOCK < rows; k++)
            for (int half = 0; half < numbers->halves; half++)
                _mm512_storeu_si512(at[k][i] + 32 * half, numbers_of(numbers, half, &string, k, group->eighths));
    }
    for (int64_t t = 0; t < rows; t += BLOCK) {
        __m512 sum[ROWS][4];
        if (b == 1 && numbers->halves == 1)
            sum_values(numbers->table, 1, at[t / BLOCK], group, x, a->n, 1, sum);
        else if (b == 1)
            sum_values(numbers->table, 2, at[t / BLOCK], group, x, a->n, 1, sum);
        else
            sum_values(numbers->table, numbers->halves, at[t / BLOCK], group, x, a->n, b, sum);
        for (int64_t r = 0; r < b; r++)
            for (int j = 0; j < 4; j++) {
                const int64_t left = rows - t - 16 * j;
                const __mmask16 some = left >= 16 ? 0xFFFF : left > 0 ? (1 << left) - 1 : 0;
                float *to = y + r * a->m + row + t + 16 * j;
                _mm512_mask_storeu_ps(to, some, _mm512_add_ps(_mm512_maskz_loadu_ps(some, to), sum[r][j]));
            }
    }
}
#endif
#endif
