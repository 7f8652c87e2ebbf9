/* W~ of codebooks/column_trellis.py. Strings run down its columns, and rows are wanted.
 *
 * Levels of 16 columns and 64 rows are turned in registers while they are bytes. Rows are written for GROUPS x WIDE
 * columns at once: where rows of W~ are a power of two apart, a cache has few places for all lines of one column, so
 * whole lines are written, many that follow each other, and none a second time.
 */

#include "column_levels.h"
#include "column_numbered.h"
#include "half.h"

/* Numbers to where they belong, bfloat16 in 16 bits or float. */
static inline void put(void *out, int64_t i, float value, int bfloat16)
{
    if (bfloat16)
        ((uint16_t *)out)[i] = to_bfloat16(value);
    else
        ((float *)out)[i] = value;
}

enum { AT_ONCE = 4 }; /* strings of a column: their codes lie in some lines of a cache */

/* Where W~ goes: strings start .. stop - 1 of columns first .. */
typedef struct {
    int64_t start, stop, first;
    char *out; /* the first row, the first column */
    int bfloat16;
} place;

static inline int64_t rows_of(const column_layer *a, int64_t s)
{
    const int64_t left = a->m - s * a->T;
    return left < a->T ? left : a->T;
}

#ifdef WINDOWS_IN_VECTORS
enum { LANES = 16, GROUPS = 8 };

typedef struct {
    float row_scales[AT_ONCE * LONGEST];
    level_reader reader;
    numbering numbers[RATES];
    columns groups[GROUPS];
    _Alignas(64) float factors[GROUPS][WIDE];
    _Alignas(64) uint8_t levels[BLOCKS][WIDE][BLOCK];
    _Alignas(64) uint8_t turned[AT_ONCE][BLOCKS][GROUPS][WIDE / LANES][LANES][BLOCK]; /* see turn */
    uint16_t at[BLOCKS][WIDE][BLOCK];
} workspace;

static void prepare(const column_layer *a, workspace *w)
{
    prepare_levels(a, 0, &w->reader);
    for (int i = 0; i < RATES; i++)
        w->numbers[i].known = 0;
}

/* 64 rows of 16 columns to 16 bytes for each row, that of row t in lane t / 16 of number t % 16: in each lane the
 * halves of all columns are interleaved, four times. */
static inline void turn(__m512i rows[LANES])
{
    __m512i other[LANES];
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            other[2 * i] = _mm512_unpacklo_epi8(rows[i], rows[i + LANES / 2]);
            other[2 * i + 1] = _mm512_unpackhi_epi8(rows[i], rows[i + LANES / 2]);
        }
        memcpy(rows, other, sizeof other);
    }
}

/* Levels of a group of columns to w->turned, zero where values are not computed. */
static void turn_levels(const column_layer *a, const place *p, int64_t g, workspace *w)
{
    const columns *some = &w->groups[g];
    int64_t rows[WIDE]; /* of w->levels, by column */
    memset(w->factors[g], 0, sizeof w->factors[g]);
    for (int64_t i = 0; i < WIDE; i++)
        rows[i] = WIDE - 1; /* free where one has no levels */
    for (int64_t i = 0; i < some->level_count; i++) {
        const int64_t number = some->levels[i].number - p->first - g * WIDE;
        w->factors[g][number] = some->levels[i].factor;
        rows[number] = i;
    }
    copy_codes(a, &w->reader, some->levels, some->level_count, p->start, p->stop);
    for (int64_t s = p->start; s < p->stop; s++) {
        decode_levels(a, &w->reader, some->levels, some->level_count, s, w->levels);
        for (int64_t k = 0; k * BLOCK < a->T; k++) {
            if (some->level_count < WIDE)
                memset(w->levels[k][WIDE - 1], 0, BLOCK);
            for (int half = 0; half < WIDE / LANES; half++) {
                __m512i turned[LANES];
                for (int i = 0; i < LANES; i++)
                    turned[i] = _mm512_load_si512(w->levels[k][rows[LANES * half + i]]);
                turn(turned);
                memcpy(w->turned[s - p->start][k][g][half], turned, sizeof turned);
            }
        }
    }
}

static inline __m512i nearest_bfloat16(__m512 low, __m512 high)
{
#ifdef __AVX512BF16__
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
#else
    uint16_t odd[32];
    for (int i = 0; i < 32; i++)
        odd[i] = 2 * i + 1;
    __m512i half[2] = {_mm512_castps_si512(low), _mm512_castps_si512(high)};
    for (int i = 0; i < 2; i++) {
        const __m512i even = _mm512_and_si512(_mm512_srli_epi32(half[i], 16), _mm512_set1_epi32(1));
        half[i] = _mm512_add_epi32(half[i], _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF)));
    }
    return _mm512_permutex2var_epi16(half[0], _mm512_loadu_si512(odd), half[1]);
#endif
}

static inline __m512 values_of(const uint8_t *levels, const float *factors, float row_scale)
{
    const __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)levels)));
    return _mm512_mul_ps(_mm512_mul_ps(value, _mm512_load_ps(factors)), _mm512_set1_ps(row_scale));
}

/* Row t of a block, `count` columns. */
static inline __attribute__((always_inline)) void write_row(uint8_t turned[GROUPS][WIDE / LANES][LANES][BLOCK],
                                                            float factors[GROUPS][WIDE], int64_t t, float row_scale,
                                                            int64_t count, int bfloat16, void *out)
{
    for (int64_t g = 0, left = count; left > 0; g++, left -= WIDE) {
        __m512 half[2];
        for (int i = 0; i < 2; i++)
            half[i] = values_of(turned[g][i][t % LANES] + t / LANES * LANES, factors[g] + i * LANES, row_scale);
        const __mmask32 some = left < WIDE ? ((__mmask32)1 << left) - 1 : ~(__mmask32)0;
        if (bfloat16)
            _mm512_mask_storeu_epi16((uint16_t *)out + g * WIDE, some, nearest_bfloat16(half[0], half[1]));
        else {
            _mm512_mask_storeu_ps((float *)out + g * WIDE, (__mmask16)some, half[0]);
            _mm512_mask_storeu_ps((float *)out + g * WIDE + LANES, (__mmask16)(some >> LANES), half[1]);
        }
    }
}

static void write_levels(const column_layer *a, const place *p, int64_t count, workspace *w)
{
    const int64_t size = p->bfloat16 ? 2 : 4;
    char *out = p->out;
    const float *row_scale = w->row_scales;
    for (int64_t s = p->start; s < p->stop; s++)
        for (int64_t t = 0, rows = rows_of(a, s); t < rows; t++, out += a->n * size, row_scale++)
            if (p->bfloat16)
                write_row(w->turned[s - p->start][t / BLOCK], w->factors, t % BLOCK, *row_scale, count, 1, out);
            else
                write_row(w->turned[s - p->start][t / BLOCK], w->factors, t % BLOCK, *row_scale, count, 0, out);
}

static void write_singles(const column_layer *a, const place *p, const columns *some, workspace *w)
{
    for (int64_t s = p->start; s < p->stop; s++) {
        number_columns(a, w->numbers, some->singly, some->single_count, s, w->at);
        for (int64_t i = 0; i < some->single_count; i++) {
            const column *c = &some->singly[i];
            for (int64_t t = 0, row = (s - p->start) * a->T; t < rows_of(a, s); t++, row++) {
                const float value = quantiles(a)[w->at[t / BLOCK][i][t % BLOCK]] * c->factor;
                put(p->out, row * a->n + c->number - p->first, value * w->row_scales[row], p->bfloat16);
            }
        }
    }
}

/* Some columns behind `last`, which becomes the last of them. */
static void write_columns(const column_layer *a, const place *p, column *last, workspace *w)
{
    int64_t count = 0;
    for (; count < GROUPS && last->number + 1 < a->n; count++) {
        w->groups[count] = next_columns(a, last, WIDE);
        turn_levels(a, p, count, w);
    }
    write_levels(a, p, last->number + 1 - p->first, w);
    for (int64_t g = 0; g < count; g++)
        write_singles(a, p, &w->groups[g], w);
}
#else
typedef struct {
    float row_scales[AT_ONCE * LONGEST];
    float values[WIDE][LONGEST + 8];
} workspace;

static void prepare(const column_layer *a, workspace *w)
{
    (void)a;
    (void)w;
}

static void write_columns(const column_layer *a, const place *p, column *last, workspace *w)
{
    const columns some = next_columns(a, last, WIDE);
    uint64_t words[WORDS];
    memset(w->values, 0, sizeof w->values);
    for (int64_t s = p->start, row = 0; s < p->stop; s++) {
        const int64_t rows = rows_of(a, s);
        for (int64_t i = 0; i < some.single_count; i++) {
            const column *c = &some.singly[i];
            float *values = w->values[c->number - p->first];
            copy_string(a, c->at + s * c->bits, c->bits, words);
            decode_string(a, words, c->eighths, values);
            for (int64_t t = 0; t < rows; t++)
                values[t] *= c->factor;
        }
        for (int64_t t = 0; t < rows; t++, row++)
            for (int64_t i = 0; i < some.count; i++)
                put(p->out, row * a->n + i, w->values[i][t] * w->row_scales[row], p->bfloat16);
    }
}
#endif

/* out: (m, n) float, or bfloat16 in 16 bits each; rows of the strings start .. stop - 1. */
void column_unpack(const column_layer *a, void *out, int bfloat16, int64_t start, int64_t stop)
{
    workspace w;
    prepare(a, &w);
    for (place p = {.start = start, .bfloat16 = bfloat16}; p.start < stop; p.start = p.stop) {
        p.stop = p.start + AT_ONCE < stop ? p.start + AT_ONCE : stop;
        const int64_t low = p.start * a->T, high = a->m < p.stop * a->T ? a->m : p.stop * a->T;
        for (int64_t row = low; row < high; row++)
            w.row_scales[row - low] = a->row_scales ? a->row_powers[code_at(a->row_scales, 6, row)] : 1;
        for (column last = {.number = -1}; last.number + 1 < a->n;) {
            p.first = last.number + 1;
            p.out = (char *)out + (low * a->n + p.first) * (bfloat16 ? 2 : 4);
            write_columns(a, &p, &last, &w);
        }
    }
}
