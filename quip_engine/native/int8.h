/* Activations as 8-bit integers: x_j = scale_g q_j for groups g of 32, scale_g = max |x_j| / 127.
 *
 * Scales of short groups keep one large activation from costing all others their precision: the relative error of a
 * product is about .4 %, where one scale for the whole vector loses about 1 %.
 */
#ifndef QUIP_INT8_H
#define QUIP_INT8_H

#include <math.h>
#include <stdint.h>

enum { INT8_GROUP = 32 };

static inline int64_t int8_groups(int64_t n) { return (n + INT8_GROUP - 1) / INT8_GROUP; }

/* q: 32 int8_groups(n) integers, zero beyond n; scale: int8_groups(n). */
static inline void to_int8(const float *x, int64_t n, int8_t *q, float *scale)
{
    for (int64_t start = 0; start < n; start += INT8_GROUP) {
        int64_t count = n - start < INT8_GROUP ? n - start : INT8_GROUP;
        float largest = 0;
        for (int64_t j = 0; j < count; j++) {
            float size = fabsf(x[start + j]);
            largest = size > largest ? size : largest;
        }
        float inverse = largest > 0 ? 127 / largest : 0;
        scale[start / INT8_GROUP] = largest / 127;
        for (int64_t j = 0; j < count; j++)
            q[start + j] = (int8_t)lrintf(x[start + j] * inverse);
        for (int64_t j = count; j < INT8_GROUP; j++)
            q[start + j] = 0;
    }
}

#endif
