/* Products with outliers apart (codebooks/outlier.py).

       y_i = sum_j levels_i[code_ij + 2^bits * outlier_ij] x_j

   The levels of a row, 4 to 32 of them, lie in one or two registers. Codes come 64 at a time as 16 lanes of four, are
   joined with the marks of outliers, and look their levels up: first those of columns 4 i, then 4 i + 1, .., the order
   in which activations are laid out (grid_lay_out). */

#include "outlier.h"

#define INLINE static inline __attribute__((always_inline))

enum { FAR = 16384, NEAR = 1024 }; /* bytes to fetch ahead: as in grid_product.c */
enum { MOST = 4 };                 /* rows of W, and of x, that are multiplied together */

#ifdef WIDE_CODES

typedef __m512 numbers;
typedef struct {
    __m512 first, second;
} table;

INLINE numbers nothing(void) { return _mm512_setzero_ps(); }
INLINE float total_of(numbers a) { return _mm512_reduce_add_ps(a); }
INLINE table table_of(const float *levels) { return (table){_mm512_loadu_ps(levels), _mm512_loadu_ps(levels + 16)}; }

/* 64 columns of a row times B rows of x, `room` floats apart, added to sum. */
INLINE void add_chunk(int two, int B, const expansion *e, const uint8_t *packed, int64_t left, const uint8_t *marks,
                      const table *t, const float *x, int64_t room, numbers *sum)
{
    const __m512i index = _mm512_or_si512(expand(e, packed, left), _mm512_loadu_si512(marks));
    for (int part = 0; part < 4; part++) {
        const __m512i lanes = _mm512_srli_epi32(index, 8 * part);
        const numbers value = two ? _mm512_permutex2var_ps(t->first, lanes, t->second)
                                  : _mm512_permutexvar_ps(lanes, t->first);
        for (int j = 0; j < B; j++)
            sum[j] = _mm512_fmadd_ps(value, _mm512_loadu_ps(x + j * room + 16 * part), sum[j]);
    }
}

#else

typedef reals numbers;
typedef struct {
    const float *levels;
} table;

INLINE numbers nothing(void) { return (numbers){0}; }
INLINE table table_of(const float *levels) { return (table){levels}; }

INLINE float total_of(numbers a)
{
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += a[i];
    return sum;
}

INLINE void add_chunk(int two, int B, const expansion *e, const uint8_t *packed, int64_t left, const uint8_t *marks,
                      const table *t, const float *x, int64_t room, numbers *sum)
{
    uint8_t codes[CHUNK];
    (void)two;
    unpack_codes(e, packed, left, codes);
    for (int part = 0; part < 4; part++)
        for (int i = 0; i < 16; i += LANES) {
            numbers value, here;
            for (int lane = 0; lane < LANES; lane++) {
                const int at = 4 * (i + lane) + part;
                value[lane] = t->levels[codes[at] | marks[at]];
            }
            for (int j = 0; j < B; j++) {
                memcpy(&here, x + j * room + 16 * part + i, sizeof here);
                sum[j] += value * here;
            }
        }
}

#endif

/* What the codes of any row are read with. */
typedef struct {
    expansion codes, gaps;
} readers;

/* Rows row .. row + R - 1 of W times B rows of x. */
INLINE void multiply_rows(int two, int R, int B, const outlier_layer *l, const readers *e, int64_t row, const float *x,
                          int64_t room, float *y)
{
    const int64_t next = R * l->width, ahead = next <= FAR ? next : NEAR;
    float levels[MOST][LEVELS];
    table t[MOST];
    outliers o[MOST];
    numbers sum[MOST * MOST];
    for (int r = 0; r < R; r++) {
        levels_of(l, row + r, levels[r]);
        t[r] = table_of(levels[r]);
        no_outliers(l, &o[r]);
    }
    for (int i = 0; i < R * B; i++)
        sum[i] = nothing();
    for (int64_t start = 0; start < l->n; start += BLOCK) {
        const int64_t stop = start + BLOCK < l->n ? start + BLOCK : l->n;
        for (int r = 0; r < R; r++)
            mark_block(l, &e->gaps, row + r, start, &o[r]);
        for (int64_t column = start; column < stop; column += CHUNK) {
            const int64_t left = bytes_left(l, row + R - 1, column);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const uint8_t *packed = codes_at(l, row + r, column), *marks = o[r].marks + column - start;
                __builtin_prefetch(packed + ahead);
                add_chunk(two, B, &e->codes, packed, left, marks, &t[r], x + column, room, sum + r * B);
            }
        }
    }
    for (int i = 0; i < R * B; i++)
        y[i % B * l->m + row + i / B] = total_of(sum[i]);
}

INLINE void multiply_range(int two, int R, int B, const outlier_layer *l, int start, int stop, const float *x,
                           int64_t room, float *y)
{
    const readers e = {expansion_of(l->bits), expansion_of(l->gap_bits)};
    int64_t row = start;
    for (; row + R <= stop; row += R)
        multiply_rows(two, R, B, l, &e, row, x, room, y);
    for (; row < stop; row++)
        multiply_rows(two, 1, B, l, &e, row, x, room, y);
}

INLINE void multiply_all(int two, const outlier_layer *l, int b, int start, int stop, const float *x, int64_t room,
                         float *y)
{
    for (; b >= MOST; b -= MOST, x += MOST * room, y += MOST * l->m)
        multiply_range(two, MOST / 2, MOST, l, start, stop, x, room, y);
    for (; b > 0; b--, x += room, y += l->m)
        multiply_range(two, MOST, 1, l, start, stop, x, room, y);
}

/* y: (b, m), columns start .. stop - 1, for x: (b, room) as grid_lay_out made it of one group. */
void outlier_multiply(const uint8_t *codes, const uint8_t *gaps, const uint16_t *levels, const uint16_t *ends, int bits,
                      int gap_bits, int symbols, int m, int n, int b, int start, int stop, const float *x, int room,
                      float *y)
{
    const outlier_layer l = outlier_layer_of(codes, gaps, levels, ends, bits, gap_bits, symbols, m, n);
    if (bits == 4)
        multiply_all(1, &l, b, start, stop, x, room, y);
    else
        multiply_all(0, &l, b, start, stop, x, room, y);
}
