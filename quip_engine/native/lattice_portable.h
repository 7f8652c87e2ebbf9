/* A chunk of 64 codes against x on any CPU: points come from tables as bytes, in the order of columns.
 *
 * Whole numbers are 16 bits wide, and 16 of them a vector. Column j belongs to group j mod 16 of its slice: products
 * are added up lane by lane, and each lane then takes its scale.
 */

#pragma once

#include "lanes.h"
#include "lattice.h"

typedef int16_t shorts __attribute__((vector_size(2 * GROUPS)));

INLINE reals product_of(const float *w, const float *x)
{
    reals weights, here;
    memcpy(&weights, w, sizeof weights);
    memcpy(&here, x, sizeof here);
    return weights * here;
}

INLINE reals products_of_floats(const float *w, const float *x)
{
    reals a = {0}, b = {0}, c = {0}, d = {0}; /* four sums, for additions to overlap */
    for (int j = 0; j < SLICE; j += 4 * LANES) {
        a += product_of(w + j, x + j);
        b += product_of(w + j + LANES, x + j + LANES);
        c += product_of(w + j + 2 * LANES, x + j + 2 * LANES);
        d += product_of(w + j + 3 * LANES, x + j + 3 * LANES);
    }
    return (a + b) + (c + d);
}

INLINE reals products_of_numbers(const int16_t *w, const lattice_slice *x)
{
    shorts sum = {0};
    for (int j = 0; j < SLICE; j += GROUPS) {
        shorts weights, here;
        memcpy(&weights, w + j, sizeof weights);
        memcpy(&here, x->numbers + j, sizeof here);
        sum += weights * here;
    }
    float scaled[GROUPS];
    for (int g = 0; g < GROUPS; g++)
        scaled[g] = sum[g] * x->scales[g];
    reals all = {0};
    for (int g = 0; g < GROUPS; g += LANES) {
        reals part;
        memcpy(&part, scaled + g, sizeof part);
        all += part;
    }
    return all;
}

/* Add the products of a chunk of codes with `rows` rows of x, `stride` bytes apart, to the sums: (rows). */
INLINE void add_products(const lattice_stage *s, int64_t kind, const uint8_t *codes, const uint8_t *x, int64_t stride,
                         int int8, int digits, int rows, reals *sums)
{
    (void)digits;
    int width = CODES * dimension_of(kind);
    int8_t w[CODES * WIDEST];
    int16_t numbers[CODES * WIDEST];
    float floats[CODES * WIDEST];
    decode_chunk(s, kind, codes, w);
    for (int j = 0; j < width; j++)
        if (int8)
            numbers[j] = w[j];
        else
            floats[j] = w[j];
    for (int first = 0; first < width; first += SLICE, x += slice_bytes(int8))
        for (int r = 0; r < rows; r++) {
            const void *here = x + r * stride;
            sums[r] += int8 ? products_of_numbers(numbers + first, here) : products_of_floats(floats + first, here);
        }
}
