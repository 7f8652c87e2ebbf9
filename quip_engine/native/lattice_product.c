/* y = x W~^T, each weight decoded where it is used.
 *
 * Up to 4 rows of x share the decoding. Rows of codes go in bands of 8, chunk by chunk, for the chunk of x to stay in
 * the first cache, while the codes of the next band are fetched.
 */

#include "lattice.h"

#if LATTICE_AVX512
#include "lattice_avx512.h"
#else
#include "lattice_portable.h"
#endif

enum { BAND = 8 };

const char *lattice_kernel(void)
{
#if LATTICE_AVX512
    return "AVX-512 VBMI";
#elif defined(__AVX2__)
    return "AVX2";
#elif defined(__ARM_NEON)
    return "NEON";
#else
    return "plain C";
#endif
}

static float total(reals sums)
{
    float lanes[LANES];
    memcpy(lanes, &sums, sizeof lanes);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; lane++)
            lanes[lane] += lanes[lane + width];
    return lanes[0];
}

/* The products of `count` rows of codes with `rows` rows of x: y, whose rows are m apart. */
INLINE void multiply_band(const lattice_stage *s, int64_t kind, const uint8_t *codes, int64_t n, int count,
                          const uint8_t *x, int64_t stride, int digits, int rows, int add, float *y, int64_t m)
{
    int64_t d = dimension_of(kind), length = length_of(kind, n), size = CODES * bytes_of(kind);
    int int8 = digits < 3;
    reals sums[BAND][ROWS] = {{{0}}};
    for (int64_t chunk = 0; chunk * CODES * d < n; chunk++, x += d / 4 * slice_bytes(int8))
        for (int i = 0; i < count; i++) {
            uint8_t copy[2 * CODES];
            const uint8_t *row = codes + i * length;
            for (int line = 0; line < size; line += 64)
                __builtin_prefetch(row + BAND * length + chunk * size + line);
            add_products(s, kind, chunk_of(kind, row, n, chunk, copy), x, stride, int8, digits, rows, sums[i]);
        }
    for (int i = 0; i < count; i++)
        for (int r = 0; r < rows; r++)
            y[r * m + i] = (add ? y[r * m + i] : 0) + s->factor * total(sums[i][r]);
}

INLINE void multiply(const lattice_stage *s, int64_t kind, int64_t n, const uint8_t *x, int64_t stride, int digits,
                     int64_t b, int add, float *y, int64_t m, int64_t start, int64_t stop)
{
    for (int64_t i = start; i < stop; i += BAND)
        for (int64_t first = 0; first < b; first += ROWS) {
            const uint8_t *codes = s->codes + i * length_of(kind, n), *here = x + first * stride;
            float *place = y + first * m + i;
            int count = stop - i < BAND ? stop - i : BAND, rows = b - first < ROWS ? b - first : ROWS;
            if (rows == 1)
                multiply_band(s, kind, codes, n, count, here, stride, digits, 1, add, place, m);
            else if (rows == 2)
                multiply_band(s, kind, codes, n, count, here, stride, digits, 2, add, place, m);
            else if (rows == 3)
                multiply_band(s, kind, codes, n, count, here, stride, digits, 3, add, place, m);
            else
                multiply_band(s, kind, codes, n, count, here, stride, digits, 4, add, place, m);
        }
}

/* x: (b, stride bytes), made by lattice_input. y: (b, m), its columns start to stop.
 *
 * With ``int8`` the first stage takes two digits. A second one, whose points are smaller, needs only the first of them.
 */
void lattice_multiply(const lattice_stage *stages, int64_t count, int64_t n, const uint8_t *x, int64_t stride, int int8,
                      int64_t b, float *y, int64_t m, int64_t start, int64_t stop)
{
#define CASE(kind, digits) \
    case 4 * kind + digits: \
        multiply(stages + k, kind, n, x, stride, digits, b, k > 0, y, m, start, stop); \
        break
    for (int64_t k = 0; k < count; k++)
        switch (4 * stages[k].kind + (!int8 ? 3 : k == 0 ? 2 : 1)) {
            CASE(E8P_CODES, 1);
            CASE(E8P_CODES, 2);
            CASE(E8P_CODES, 3);
            CASE(TABLE_OF_8, 1);
            CASE(TABLE_OF_8, 3);
            CASE(TABLE_OF_4, 2);
            CASE(TABLE_OF_4, 3);
        }
#undef CASE
}
