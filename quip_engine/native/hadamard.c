/* Sylvester's transform y = S_{2^r} x, scaled, of many vectors: the butterflies of a vector stay in the first cache.
 *
 * Four stages work within registers of 16 numbers, the others take two stages (four numbers, h apart) at a time.
 */
#include <stdint.h>
#include <string.h>

typedef float lanes __attribute__((vector_size(64)));
typedef int32_t places __attribute__((vector_size(64)));

#ifdef __clang__
#define MOVED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define MOVED(v, ...) __builtin_shuffle(v, (places){__VA_ARGS__})
#endif

static inline lanes load(const float *x)
{
    lanes v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline void store(float *y, lanes v) { memcpy(y, &v, sizeof v); }

/* One stage within a register: number i meets the one whose index differs in one bit, and takes the difference where
 * its own bit is set. */
#define STAGE(v, bit, ...) \
    (MOVED(v, __VA_ARGS__) + v * (lanes){ \
        SIGN(0, bit), SIGN(1, bit), SIGN(2, bit), SIGN(3, bit), SIGN(4, bit), SIGN(5, bit), SIGN(6, bit), \
        SIGN(7, bit), SIGN(8, bit), SIGN(9, bit), SIGN(10, bit), SIGN(11, bit), SIGN(12, bit), SIGN(13, bit), \
        SIGN(14, bit), SIGN(15, bit)})
#define SIGN(i, bit) ((i) & (bit) ? -1.0f : 1.0f)

static inline lanes within(lanes v)
{
    v = STAGE(v, 1, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    v = STAGE(v, 2, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    v = STAGE(v, 4, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    return STAGE(v, 8, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}

static void narrow(float *y, int64_t size)
{
    for (int64_t h = 1; h < size; h *= 2)
        for (int64_t start = 0; start < size; start += 2 * h)
            for (int64_t i = start; i < start + h; i++) {
                float a = y[i], b = y[i + h];
                y[i] = a + b;
                y[i + h] = a - b;
            }
}

static void wide(float *y, int64_t size)
{
    for (int64_t i = 0; i < size; i += 16)
        store(y + i, within(load(y + i)));
    int64_t h = 16;
    for (; 4 * h <= size; h *= 4)
        for (int64_t start = 0; start < size; start += 4 * h)
            for (int64_t i = start; i < start + h; i += 16) {
                lanes a = load(y + i), b = load(y + i + h), c = load(y + i + 2 * h), d = load(y + i + 3 * h);
                lanes ab = a + b, cd = c + d, a_b = a - b, c_d = c - d;
                store(y + i, ab + cd);
                store(y + i + h, a_b + c_d);
                store(y + i + 2 * h, ab - cd);
                store(y + i + 3 * h, a_b - c_d);
            }
    if (h < size)
        for (int64_t i = 0; i < h; i += 16) {
            lanes a = load(y + i), b = load(y + i + h);
            store(y + i, a + b);
            store(y + i + h, a - b);
        }
}

static void multiply(const float *x, const float *by, float scale, float *y, int64_t size)
{
    if (by)
        for (int64_t i = 0; i < size; i++)
            y[i] = x[i] * scale * by[i];
    else
        for (int64_t i = 0; i < size; i++)
            y[i] = x[i] * scale;
}

/* y: (vectors, size) from x of that shape, for the vectors from start to stop; size is a power of two. What vectors are
 * multiplied with before and after, (period, size) each or NULL, is that of vector v at v mod period.
 */
void sylvester(const float *x, const float *before, const float *after, float *y, int64_t period, int64_t size,
               float scale, int64_t start, int64_t stop)
{
    for (int64_t v = start; v < stop; v++) {
        float *to = y + v * size;
        int64_t own = v % period * size;
        multiply(x + v * size, before ? before + own : 0, scale, to, size);
        if (size < 16)
            narrow(to, size);
        else
            wide(to, size);
        if (after)
            multiply(to, after + own, 1, to, size);
    }
}
