/* y = x W~^T for the layers of codebooks/column_trellis.py.
 *
 * Levels are multiplied as bytes, with AVX-512 VNNI: bytes of four columns are brought together, row by row, and one
 * instruction multiplies them by four bytes of x and adds up 16 rows. x_i times the factor of its column becomes an
 * integer with one scale for 32 columns, and goes digit by digit: three bytes, as exact as float32, or two.
 * Other values are multiplied as they are.
 */

#include "column_levels.h"
#include "column_numbered.h"

enum { ROWS = 16 }; /* of x at once */

const char *column_product_name(void)
{
#ifdef WINDOWS_IN_VECTORS
    return "AVX-512 VBMI, GFNI and VNNI";
#else
    return "C";
#endif
}

#ifdef WINDOWS_IN_VECTORS

enum { DIGITS = 3, QUADS = WIDE / 4 };

/* x of the columns of levels: bytes of four columns in each number, low digits first. */
typedef struct {
    int32_t quads[DIGITS][QUADS], offset[DIGITS]; /* what sums begin with, for levels that are unsigned */
    float scale;
} digits;

typedef struct {
    level_reader reader;
    numbering numbers[RATES];
    digits x[ROWS];
    _Alignas(64) uint8_t levels[BLOCKS][WIDE][BLOCK];
    uint16_t at[BLOCKS][WIDE][BLOCK];
} workspace;

static digits digits_of(const float *x, const column *columns, int64_t count, int number)
{
    float z[WIDE] = {0};
    for (int64_t i = 0; i < count; i++)
        z[i] = x[columns[i].number] * columns[i].factor;
    const __m512 low = _mm512_loadu_ps(z), high = _mm512_loadu_ps(z + 16);
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    const float most = number == 3 ? 0x7F7F00 : 0x7F7F; /* of what digits can be, all at their largest */
    const __m512 inverse = _mm512_set1_ps(largest > 0 ? most / largest : 0);
    const __m512 none = _mm512_mul_ps(_mm512_add_ps(low, high), _mm512_setzero_ps()); /* but where x is not finite */
    digits d = {.scale = largest / most + _mm512_reduce_add_ps(none)};
    __m512i q[2] = {_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)), _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse))};
    for (int j = 0; j < number; j++) {
        for (int half = 0; half < 2; half++) {
            _mm_storeu_si128((void *)(d.quads[j] + 4 * half), _mm512_cvtepi32_epi8(q[half]));
            q[half] = _mm512_srai_epi32(_mm512_add_epi32(q[half], _mm512_set1_epi32(128)), 8);
        }
        const __m256i all = _mm256_loadu_si256((const void *)d.quads[j]);
        const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8((char)128),
                                                 _mm512_zextsi256_si512(all));
        d.offset[j] = -_mm512_reduce_add_epi32(sums);
    }
    return d;
}

/* Bytes of four columns each, from 64 of each: of rows 0 to 3, 16 to 19, 32 to 35, 48 to 51; and so on. */
static inline void bring_together(uint8_t levels[4][BLOCK], __m512i four[4])
{
    const __m512i *at = (const __m512i *)levels;
    const __m512i low = _mm512_unpacklo_epi8(at[0], at[1]), high = _mm512_unpackhi_epi8(at[0], at[1]);
    const __m512i low2 = _mm512_unpacklo_epi8(at[2], at[3]), high2 = _mm512_unpackhi_epi8(at[2], at[3]);
    four[0] = _mm512_unpacklo_epi16(low, low2);
    four[1] = _mm512_unpackhi_epi16(low, low2);
    four[2] = _mm512_unpacklo_epi16(high, high2);
    four[3] = _mm512_unpackhi_epi16(high, high2);
}

/* y += sums, in 64 rows of which `left` are there. */
static inline void add_rows(const __m512 sum[4], float *y, int64_t left)
{
    for (int j = 0; j < 4; j++, left -= 16, y += 16) {
        const __mmask16 some = left >= 16 ? 0xFFFF : left > 0 ? (1 << left) - 1 : 0;
        _mm512_mask_storeu_ps(y, some, _mm512_add_ps(_mm512_maskz_loadu_ps(some, y), sum[j]));
    }
}

static inline __attribute__((always_inline)) void add_products(uint8_t levels[WIDE][BLOCK], int64_t quads,
                                                              const digits *x, int number, float *y, int64_t left)
{
    __m512i sum[4][DIGITS];
    for (int j = 0; j < 4; j++)
        for (int d = 0; d < number; d++)
            sum[j][d] = _mm512_set1_epi32(x->offset[d]);
    for (int64_t i = 0; i < quads; i++) {
        __m512i four[4];
        bring_together(levels + 4 * i, four);
        for (int j = 0; j < 4; j++)
            for (int d = 0; d < number; d++)
                sum[j][d] = _mm512_dpbusd_epi32(sum[j][d], four[j], _mm512_set1_epi32(x->quads[d][i]));
    }
    __m512 rows[4];
    for (int j = 0; j < 4; j++) {
        float scale = x->scale;
        rows[j] = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[j][0]), _mm512_set1_ps(scale));
        for (int d = 1; d < number; d++)
            rows[j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[j][d]), _mm512_set1_ps(scale *= 256), rows[j]);
    }
    const __m512 a = _mm512_shuffle_f32x4(rows[0], rows[1], 0x88), b = _mm512_shuffle_f32x4(rows[0], rows[1], 0xDD);
    const __m512 c = _mm512_shuffle_f32x4(rows[2], rows[3], 0x88), e = _mm512_shuffle_f32x4(rows[2], rows[3], 0xDD);
    const __m512 ordered[4] = {_mm512_shuffle_f32x4(a, c, 0x88), _mm512_shuffle_f32x4(b, e, 0x88),
                               _mm512_shuffle_f32x4(a, c, 0xDD), _mm512_shuffle_f32x4(b, e, 0xDD)};
    add_rows(ordered, y, left);
}

static void add_levels(const column_layer *a, const columns *some, const float *x, int64_t b, int number, float *y,
                       int64_t start, int64_t stop, workspace *w)
{
    const int64_t quads = (some->level_count + 3) / 4;
    for (int64_t r = 0; r < b; r++)
        w->x[r] = digits_of(x + r * a->n, some->levels, some->level_count, number);
    for (int64_t s = start; s < stop; s++) {
        const int64_t row = s * a->T, rows = a->m - row < a->T ? a->m - row : a->T;
        if ((s - start) % TOGETHER == 0)
            copy_codes(a, &w->reader, some->levels, some->level_count, s, s + TOGETHER < stop ? s + TOGETHER : stop);
        decode_levels(a, &w->reader, some->levels, some->level_count, s, w->levels);
        for (int64_t t = 0; t < rows; t += BLOCK) {
            uint8_t(*levels)[BLOCK] = w->levels[t / BLOCK];
            for (int64_t r = 0; r < b; r++)
                if (number == DIGITS)
                    add_products(levels, quads, &w->x[r], DIGITS, y + r * a->m + row + t, rows - t);
                else
                    add_products(levels, quads, &w->x[r], 2, y + r * a->m + row + t, rows - t);
        }
    }
}

static void add_singly(const column_layer *a, const columns *some, const float *x, int64_t b, float *y, int64_t start,
                       int64_t stop, workspace *w)
{
    const float *values = quantiles(a);
    for (int64_t s = start; s < stop; s++) {
        const int64_t row = s * a->T, rows = a->m - row < a->T ? a->m - row : a->T;
        number_columns(a, w->numbers, some->singly, some->single_count, s, w->at);
        for (int64_t t = 0; t < rows; t += BLOCK)
            for (int64_t i = 0; i < some->single_count; i++) {
                __m512 value[4], product[4];
                for (int j = 0; j < 4; j++)
                    value[j] = load_values(values, w->at[t / BLOCK][i] + 16 * j);
                for (int64_t r = 0; r < b; r++) {
                    const column *c = &some->singly[i];
                    for (int j = 0; j < 4; j++)
                        product[j] = _mm512_mul_ps(_mm512_set1_ps(x[r * a->n + c->number] * c->factor), value[j]);
                    add_rows(product, y + r * a->m + row + t, rows - t);
                }
            }
    }
}

#else
typedef struct {
    float values[LONGEST + 8];
} workspace;

static void add_singly(const column_layer *a, const columns *some, const float *x, int64_t b, float *y, int64_t start,
                       int64_t stop, workspace *w)
{
    uint64_t words[WORDS];
    for (int64_t s = start; s < stop; s++) {
        const int64_t row = s * a->T, rows = a->m - row < a->T ? a->m - row : a->T;
        for (int64_t i = 0; i < some->single_count; i++) {
            const column *c = &some->singly[i];
            copy_string(a, c->at + s * c->bits, c->bits, words);
            decode_string(a, words, c->eighths, w->values);
            for (int64_t r = 0; r < b; r++) {
                const float factor = x[r * a->n + c->number] * c->factor;
                float *sum = y + r * a->m + row;
                for (int64_t t = 0; t < rows; t++)
                    sum[t] += factor * w->values[t];
            }
        }
    }
}
#endif

/* y: (b, m) of x: (b, n), rows of the strings start .. stop - 1; `number` of digits of x, 2 or 3. */
void column_product(const column_layer *a, const float *x, int64_t b, int number, float *y, int64_t start,
                    int64_t stop)
{
    const int64_t m = a->m, low = start * a->T, high = stop * a->T < m ? stop * a->T : m;
    workspace w;
    for (int64_t r = 0; r < b; r++)
        memset(y + r * m + low, 0, (high - low) * sizeof *y);
#ifdef WINDOWS_IN_VECTORS
    prepare_levels(a, 128, &w.reader);
    for (int i = 0; i < RATES; i++)
        w.numbers[i].known = 0;
#endif
    column last = {.number = -1};
    while (last.number + 1 < a->n) {
        const columns some = next_columns(a, &last, WIDE);
        for (int64_t r = 0; r < b; r += ROWS) {
            const int64_t count = b - r < ROWS ? b - r : ROWS;
#ifdef WINDOWS_IN_VECTORS
            if (some.level_count)
                add_levels(a, &some, x + r * a->n, count, number, y + r * m, start, stop, &w);
#endif
            if (some.single_count)
                add_singly(a, &some, x + r * a->n, count, y + r * m, start, stop, &w);
        }
    }
    for (int64_t i = low; a->row_scales && i < high; i++)
        for (int64_t r = 0; r < b; r++)
            y[r * m + i] *= a->row_powers[code_at(a->row_scales, 6, i)];
    (void)number;
}
