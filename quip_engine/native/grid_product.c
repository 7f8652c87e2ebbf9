/* Products with uniform grids (codebooks/grid.py).

       y_i = sum_k step_ik sum_{j in group k} (code_ij - zero_ik) x_j

   Activations are laid out group by group, each from a column whose codes begin with a byte, in chunks of 64 with zeros
   around the group: whatever codes are read there count nothing, and no group or end of a row is a special case.

   float: a chunk of codes comes as 16 lanes of four; shifting the lanes brings up the codes of columns 4 i, then those
   of 4 i + 1, .., and activations are laid out in that order. Codes become numbers by a table of code - zero in one
   register where the CPU has that and the bits are few, else by conversion.

   int8, with AVX-512: step (sum code q - zero sum q), x = scale q: the codes themselves are multiplied, by vpdpbusd.
   Each of its lanes gets a scale of its own, which costs nothing: scales of four activations lose .3 %, of 32 .5 %. */

#include "grid.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

/* Several short streams are more than the CPU follows by itself: the next rows are fetched ahead, unless too FAR. */
enum { FAR = 16384, NEAR = 1024 }; /* bytes */
enum { MOST = 4 };                 /* rows of W, and of x, that are multiplied together */

enum { TABLE, CONVERT, INT8 };

#ifdef WIDE_CODES

enum { HAS_INT8 = 1 };
typedef __m512 numbers;
INLINE numbers spread(float value) { return _mm512_set1_ps(value); }
INLINE numbers multiply_add(numbers a, numbers b, numbers c) { return _mm512_fmadd_ps(a, b, c); }
INLINE float total_of(numbers a) { return _mm512_reduce_add_ps(a); }

#else

enum { HAS_INT8 = 0 };
typedef reals numbers;
INLINE numbers spread(float value) { return all(value); }
INLINE numbers multiply_add(numbers a, numbers b, numbers c) { return a * b + c; }

INLINE float total_of(numbers a)
{
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += a[i];
    return sum;
}

#endif

const char *grid_features(void) { return HAS_INT8 ? "AVX-512 VBMI" : "C"; }

int grid_has_int8(void) { return HAS_INT8; }

/* One row of x, laid out, in floats: numbers (or 8-bit integers, in a quarter of their room, and behind them 16 scales
   for each chunk), then the sum of each group. */
typedef struct {
    int64_t chunks, numbers, room;
} layout;

static layout layout_of(const grid *g)
{
    int64_t reach = g->group % 8 && g->groups > 1 ? g->group + 7 : g->group, chunks = (reach + CHUNK - 1) / CHUNK;
    layout l = {chunks, g->groups * chunks * CHUNK, g->groups * (chunks * CHUNK + 1)};
    return l;
}

int64_t grid_room(int n, int group)
{
    const grid g = grid_of(0, 0, 0, 0, 1, 1, n, group);
    return layout_of(&g).room;
}

INLINE int8_t *integers(float *x, int64_t chunk) { return (int8_t *)x + chunk * CHUNK; }
INLINE float *scales(const layout *l, float *x, int64_t chunk) { return x + l->numbers / 4 + 16 * chunk; }

static void lay_out(const float here[CHUNK], float *out)
{
    for (int i = 0; i < CHUNK; i++)
        out[i % 4 * 16 + i / 4] = here[i];
}

/* Returns the sum of scale q. */
static float lay_out_int8(const float here[CHUNK], int8_t *q, float scale[16])
{
    float sum = 0;
    for (int lane = 0; lane < 16; lane++, here += 4, q += 4) {
        float largest = 0;
        int total = 0;
        for (int i = 0; i < 4; i++)
            largest = fabsf(here[i]) > largest ? fabsf(here[i]) : largest;
        const float inverse = largest > 0 ? 127 / largest : 0;
        for (int i = 0; i < 4; i++)
            total += q[i] = (int8_t)lrintf(here[i] * inverse);
        scale[lane] = largest / 127;
        sum += scale[lane] * (float)total;
    }
    return sum;
}

/* x: (b, n) to out: (b, grid_room(n, group)). */
void grid_lay_out(int n, int group, int int8, int b, const float *x, float *out)
{
    const grid g = grid_of(0, 0, 0, 0, 1, 1, n, group);
    const layout l = layout_of(&g);
    for (int64_t j = 0; j < b; j++, x += n, out += l.room)
        for (int64_t k = 0; k < g.groups; k++) {
            const span s = span_of(&g, k);
            float *sum = out + l.numbers + k, here[CHUNK];
            *sum = 0;
            for (int64_t c = 0; c < s.chunks; c++) {
                const int64_t chunk = k * l.chunks + c, column = s.first + c * CHUNK;
                for (int64_t i = column; i < column + CHUNK; i++)
                    here[i - column] = i >= s.start && i < s.stop ? x[i] : 0;
                if (int8)
                    *sum += lay_out_int8(here, integers(out, chunk), scales(&l, out, chunk));
                else
                    lay_out(here, out + chunk * CHUNK);
            }
        }
}

/* A chunk of one row of W times that of B rows of x, added to sum. */
#ifdef WIDE_CODES

INLINE void add_chunk(int kind, int B, const layout *l, const expansion *e, const uint8_t *packed, int64_t left,
                      float zero, float *x, int64_t chunk, numbers *sum)
{
    const __m512i codes = expand(e, packed, left);
    if (kind == INT8) {
        for (int j = 0; j < B; j++, x += l->room) {
            __m512i q = _mm512_loadu_si512(integers(x, chunk));
            numbers products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), codes, q));
            sum[j] = multiply_add(products, _mm512_loadu_ps(scales(l, x, chunk)), sum[j]);
        }
        return;
    }
    const numbers counting = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const numbers table = _mm512_sub_ps(counting, spread(zero));
    for (int part = 0; part < 4; part++) {
        const __m512i lanes = _mm512_srli_epi32(codes, 8 * part);
        const __m512i code = _mm512_and_si512(lanes, _mm512_set1_epi32(255));
        const numbers value = kind == TABLE ? _mm512_permutexvar_ps(lanes, table)
                                            : _mm512_sub_ps(_mm512_cvtepi32_ps(code), spread(zero));
        for (int j = 0; j < B; j++)
            sum[j] = multiply_add(value, _mm512_loadu_ps(x + j * l->room + chunk * CHUNK + 16 * part), sum[j]);
    }
}

#else

INLINE void add_chunk(int kind, int B, const layout *l, const expansion *e, const uint8_t *packed, int64_t left,
                      float zero, float *x, int64_t chunk, numbers *sum)
{
    words codes[REGISTERS];
    (void)kind;
    expand(e, packed, left, codes);
    for (int i = 0; i < REGISTERS; i++)
        for (int part = 0; part < 4; part++) {
            const numbers value = __builtin_convertvector((ints)codes[i] >> 8 * part & 255, numbers) - zero;
            for (int j = 0; j < B; j++) {
                numbers here;
                memcpy(&here, x + j * l->room + chunk * CHUNK + 16 * part + i * LANES, sizeof here);
                sum[j] = multiply_add(value, here, sum[j]);
            }
        }
}

#endif

/* Rows row .. row + R - 1 of W times B rows of x. */
INLINE void multiply_rows(int kind, int R, int B, const grid *g, const layout *l, int64_t row, float *x, float *y)
{
    const expansion e = expansion_of(g->bits);
    const int64_t next = R * g->width, ahead = next <= FAR ? next : NEAR;
    numbers total[MOST * MOST];
    float shift[MOST * MOST] = {0};
    for (int i = 0; i < R * B; i++)
        total[i] = spread(0);
    for (int64_t k = 0; k < g->groups; k++) {
        const span s = span_of(g, k);
        numbers sum[MOST * MOST];
        float zero[MOST];
        for (int r = 0; r < R; r++)
            zero[r] = zero_of(g, row + r, k);
        for (int i = 0; i < R * B; i++)
            sum[i] = spread(0);
        for (int64_t c = 0; c < s.chunks; c++) {
            const int64_t column = s.first + c * CHUNK, left = bytes_left(g, row + R - 1, column);
            for (int r = 0; r < R; r++) {
                const uint8_t *packed = codes_at(g, row + r, column);
                __builtin_prefetch(packed + ahead);
                add_chunk(kind, B, l, &e, packed, left, zero[r], x, k * l->chunks + c, sum + r * B);
            }
        }
        for (int i = 0; i < R * B; i++) {
            const float step = step_of(g, row + i / B, k);
            total[i] = multiply_add(spread(step), sum[i], total[i]);
            shift[i] += step * zero[i / B] * x[i % B * l->room + l->numbers + k];
        }
    }
    for (int i = 0; i < R * B; i++)
        y[i % B * g->m + row + i / B] = total_of(total[i]) - (kind == INT8 ? shift[i] : 0);
}

INLINE void multiply_range(int kind, int B, const grid *g, const layout *l, int start, int stop, float *x, float *y)
{
    int64_t row = start;
    for (; row + MOST <= stop; row += MOST)
        multiply_rows(kind, MOST, B, g, l, row, x, y);
    for (; row < stop; row++)
        multiply_rows(kind, 1, B, g, l, row, x, y);
}

INLINE void multiply_all(int kind, const grid *g, int b, int start, int stop, float *x, float *y)
{
    const layout l = layout_of(g);
    for (; b >= MOST; b -= MOST, x += MOST * l.room, y += MOST * g->m)
        multiply_range(kind, MOST, g, &l, start, stop, x, y);
    for (; b > 0; b--, x += l.room, y += g->m)
        multiply_range(kind, 1, g, &l, start, stop, x, y);
}

/* y: (b, m), columns start .. stop - 1, for x as `grid_lay_out` made it. */
void grid_multiply(const uint8_t *codes, const float *scale, const uint16_t *steps, const uint8_t *zeros, int bits,
                   int n, int group, int int8, int b, int m, int start, int stop, float *x, float *y)
{
    const grid g = grid_of(codes, scale, steps, zeros, bits, m, n, group);
    if (HAS_INT8 && int8)
        multiply_all(INT8, &g, b, start, stop, x, y);
    else if (bits <= 4)
        multiply_all(TABLE, &g, b, start, stop, x, y);
    else
        multiply_all(CONVERT, &g, b, start, stop, x, y);
}
