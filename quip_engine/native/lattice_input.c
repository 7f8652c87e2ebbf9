/* x made ready for the products (lattice.h says how it is laid out).
 *
 * A group of 16 columns becomes x_j = scale q_j, |q_j| <= 127 * 256^(digits - 1). Three digits are so near to float32
 * that a sum of products does not show the difference; two lose 2e-5 of it. Without digits |q_j| <= 186, for 16
 * products with weights of 11 to fit 16 bits: .3 % for Gaussian x. Short groups keep one large x from costing
 * others their precision.
 */

#include <math.h>

#include "lattice.h"

#define LEAST 1e-30f /* of a group's largest |x|: its inverse must stay finite */

/* q: (SLICE), scales: (GROUPS). A group that is not finite gets the scale NaN, for y to show it. */
static void whole_numbers(const float *x, float most, int32_t *q, float *scales)
{
    for (int g = 0; g < GROUPS; g++) {
        float largest = LEAST;
        int finite = 1;
        for (int j = g * GROUP; j < (g + 1) * GROUP; j++) {
            float size = fabsf(x[j]);
            largest = size > largest ? size : largest;
            finite &= size <= 3.4028234e38f;
        }
        float inverse = finite ? most / largest : 0;
        scales[g] = finite ? largest / most : NAN;
        for (int j = g * GROUP; j < (g + 1) * GROUP; j++)
            q[j] = finite ? (int32_t)rintf(x[j] * inverse) : 0;
    }
}

#if LATTICE_AVX512

/* The digits of q are the bytes of q + 128 (1 + 256 + ..), less 128 each. */
static void slice(const float *x, int int8, lattice_slice *out)
{
    int count = digits_of(int8), halves = int8 ? 0x8080 : 0x808080;
    int32_t q[SLICE];
    whole_numbers(x, 127 << 8 * (count - 1), q, out->scales);
    for (int k = 0; k < count; k++) {
        lattice_digits *place = out->numbers + k;
        int8_t digits[SLICE];
        for (int j = 0; j < SLICE; j++)
            digits[j] = (uint8_t)((q[j] + halves) >> 8 * (count - 1 - k)) ^ 0x80;
        for (int c = 0; c < 4; c++)
            for (int i = 0; i < CODES; i++)
                place->digits[c][i] = digits[4 * i + c];
        for (int g = 0; g < GROUPS; g++) {
            int32_t sum = 0;
            for (int j = 0; j < GROUP; j++)
                sum += digits[GROUP * g + j];
            place->start[g] = -16 * sum;
        }
    }
}

#else

static void slice(const float *x, int int8, lattice_slice *out)
{
    if (!int8) {
        memcpy(out, x, SLICE * sizeof *x);
        return;
    }
    float groups[SLICE];
    int32_t q[SLICE];
    for (int j = 0; j < SLICE; j++)
        groups[j % GROUPS * GROUP + j / GROUPS] = x[j];
    whole_numbers(groups, 186, q, out->scales);
    for (int j = 0; j < SLICE; j++)
        out->numbers[j] = q[j % GROUPS * GROUP + j / GROUPS];
}

#endif

INLINE int64_t slices_of(int64_t d, int64_t n) { return (n + CODES * d - 1) / (CODES * d) * (d / 4); }

int lattice_input_bytes(int64_t kind, int64_t n, int int8)
{
    return slices_of(dimension_of(kind), n) * slice_bytes(int8);
}

/* x: (b, n). out: (b, lattice_input_bytes), 4-byte aligned. */
void lattice_input(int64_t kind, const float *x, int64_t b, int64_t n, int int8, uint8_t *out)
{
    int64_t d = dimension_of(kind), slices = slices_of(d, n), width = CODES * d;
    for (; b > 0; b--, x += n)
        for (int64_t k = 0; k < slices; k++, out += slice_bytes(int8)) {
            int64_t first = k / (d / 4) * width, part = k % (d / 4);
            float chunk[CODES * WIDEST] = {0}, here[SLICE];
            memcpy(chunk, x + first, (n - first < width ? n - first : width) * sizeof *x);
            for (int i = 0; i < CODES; i++)
                memcpy(here + 4 * i, chunk + (LATTICE_AVX512 ? d * i + 4 * part : SLICE * part + 4 * i), 4 * sizeof *x);
            slice(here, int8, (lattice_slice *)out);
        }
}
