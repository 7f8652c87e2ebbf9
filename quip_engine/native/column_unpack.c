/* W~ of codebooks/column_trellis.py. Strings run down its columns: some of these are decoded, then turned into rows. */

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

enum { AT_ONCE = 4 }; /* strings of 32 columns: what codes are read of each column lies in some lines of a cache */

typedef struct {
    float row_scales[AT_ONCE * LONGEST];
#ifdef WINDOWS_IN_VECTORS
    level_reader reader;
    numbering numbers[RATES];
    _Alignas(64) float factors[WIDE];
    _Alignas(64) uint8_t levels[BLOCKS][WIDE][BLOCK];
    uint16_t at[BLOCKS][WIDE][BLOCK];
#else
    float values[WIDE][LONGEST + 8];
#endif
} workspace;

/* Where rows of one string of some columns are written. */
typedef struct {
    int64_t s, rows, first; /* column */
    const float *row_scales;
    char *out;
    int bfloat16;
} place;

#ifdef WINDOWS_IN_VECTORS
/* 64 rows of 32 columns to two rows each: five times, the halves of all are interleaved. */
static void turn(__m512i rows[WIDE])
{
    uint8_t low[64], high[64];
    for (int i = 0; i < 64; i++) {
        low[i] = i / 2 + 64 * (i & 1);
        high[i] = low[i] + 32;
    }
    const __m512i lower = _mm512_loadu_si512(low), upper = _mm512_loadu_si512(high);
    __m512i other[WIDE];
    for (int round = 0; round < 5; round++) {
        memcpy(other, rows, sizeof other);
        for (int i = 0; i < WIDE / 2; i++) {
            rows[2 * i] = _mm512_permutex2var_epi8(other[i], lower, other[i + WIDE / 2]);
            rows[2 * i + 1] = _mm512_permutex2var_epi8(other[i], upper, other[i + WIDE / 2]);
        }
    }
}

static inline __m512i nearest_bfloat16(__m512 low, __m512 high)
{
    uint16_t odd[32];
    for (int i = 0; i < 32; i++)
        odd[i] = 2 * i + 1;
    __m512i half[2] = {_mm512_castps_si512(low), _mm512_castps_si512(high)};
    for (int i = 0; i < 2; i++) {
        const __m512i even = _mm512_and_si512(_mm512_srli_epi32(half[i], 16), _mm512_set1_epi32(1));
        half[i] = _mm512_add_epi32(half[i], _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFF)));
    }
    return _mm512_permutex2var_epi16(half[0], _mm512_loadu_si512(odd), half[1]);
}

/* A row of 32 columns, of which `count` are there. */
static inline void write_row(__m256i levels, const float *factors, float row_scale, int64_t count, int bfloat16,
                             void *out)
{
    __m512 half[2];
    for (int i = 0; i < 2; i++) {
        const __m128i bytes = i ? _mm256_extracti128_si256(levels, 1) : _mm256_castsi256_si128(levels);
        const __m512 value = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
        half[i] = _mm512_mul_ps(_mm512_mul_ps(value, _mm512_load_ps(factors + 16 * i)), _mm512_set1_ps(row_scale));
    }
    const __mmask32 some = count < WIDE ? ((__mmask32)1 << count) - 1 : ~(__mmask32)0;
    if (bfloat16)
        _mm512_mask_storeu_epi16(out, some, nearest_bfloat16(half[0], half[1]));
    else {
        _mm512_mask_storeu_ps(out, (__mmask16)some, half[0]);
        _mm512_mask_storeu_ps((float *)out + 16, (__mmask16)(some >> 16), half[1]);
    }
}

/* Zero where values are not computed. */
static void write_levels(const column_layer *a, const columns *some, const place *p, workspace *w)
{
    const int64_t size = p->bfloat16 ? 2 : 4;
    memset(w->factors, 0, sizeof w->factors);
    for (int64_t i = 0; i < some->level_count; i++)
        w->factors[some->levels[i].number - p->first] = some->levels[i].factor;
    decode_levels(a, &w->reader, some->levels, some->level_count, p->s, w->levels);
    for (int64_t t = 0; t < p->rows; t += BLOCK) {
        __m512i turned[WIDE] = {0};
        for (int64_t i = 0; i < some->level_count; i++)
            turned[some->levels[i].number - p->first] = _mm512_load_si512(w->levels[t / BLOCK][i]);
        turn(turned);
        for (int64_t j = t; j < p->rows && j < t + BLOCK; j++) {
            const __m256i row = _mm256_loadu_si256((const __m256i *)turned + (j - t));
            __builtin_prefetch(p->out + (j * a->n + WIDE) * size, 1);
            write_row(row, w->factors, p->row_scales[j], some->count, p->bfloat16, p->out + j * a->n * size);
        }
    }
}

static void write_columns(const column_layer *a, const columns *some, const place *p, workspace *w)
{
    write_levels(a, some, p, w);
    number_columns(a, w->numbers, some->singly, some->single_count, p->s, w->at);
    for (int64_t i = 0; i < some->single_count; i++) {
        const column *c = &some->singly[i];
        for (int64_t t = 0; t < p->rows; t++) {
            const float value = quantiles(a)[w->at[t / BLOCK][i][t % BLOCK]] * c->factor;
            put(p->out, t * a->n + c->number - p->first, value * p->row_scales[t], p->bfloat16);
        }
    }
}
#else
static void write_columns(const column_layer *a, const columns *some, const place *p, workspace *w)
{
    uint64_t words[WORDS];
    memset(w->values, 0, sizeof w->values);
    for (int64_t i = 0; i < some->single_count; i++) {
        const column *c = &some->singly[i];
        float *values = w->values[c->number - p->first];
        copy_string(a, c->at + p->s * c->bits, c->bits, words);
        decode_string(a, words, c->eighths, values);
        for (int64_t t = 0; t < p->rows; t++)
            values[t] *= c->factor;
    }
    for (int64_t t = 0; t < p->rows; t++)
        for (int64_t i = 0; i < some->count; i++)
            put(p->out, t * a->n + i, w->values[i][t] * p->row_scales[t], p->bfloat16);
}
#endif

/* out: (m, n) float, or bfloat16 in 16 bits each; rows of the strings start .. stop - 1. */
void column_unpack(const column_layer *a, void *out, int bfloat16, int64_t start, int64_t stop)
{
    const int64_t T = a->T, size = bfloat16 ? 2 : 4;
    workspace w;
#ifdef WINDOWS_IN_VECTORS
    prepare_levels(a, 0, &w.reader);
    for (int i = 0; i < RATES; i++)
        w.numbers[i].known = 0;
#endif
    for (int64_t s = start, end; s < stop; s = end) {
        end = s + AT_ONCE < stop ? s + AT_ONCE : stop;
        const int64_t low = s * T, high = a->m < end * T ? a->m : end * T;
        for (int64_t row = low; row < high; row++)
            w.row_scales[row - low] = a->row_scales ? a->row_powers[code_at(a->row_scales, 6, row)] : 1;
        column last = {.number = -1};
        while (last.number + 1 < a->n) {
            place p = {.first = last.number + 1, .bfloat16 = bfloat16};
            const columns some = next_columns(a, &last, WIDE);
#ifdef WINDOWS_IN_VECTORS
            copy_codes(a, &w.reader, some.levels, some.level_count, s, end);
#endif
            for (p.s = s; p.s < end; p.s++) {
                const int64_t row = p.s * T;
                p.rows = high - row < T ? high - row : T;
                p.row_scales = w.row_scales + (row - low);
                p.out = (char *)out + (row * a->n + p.first) * size;
                write_columns(a, &some, &p, &w);
            }
        }
    }
}
