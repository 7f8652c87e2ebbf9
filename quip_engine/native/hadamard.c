/* Sylvester's transform y = S_{2^r} x, scaled, of many vectors: a vector is read once and written once, in the type that
 * it comes in and is wanted in, and stays in the first cache between.
 *
 * Stages go in passes over the vector. In one, RADIX registers of LANES numbers, h apart, meet in all stages from h on; in
 * the first, they lie side by side, and the stages within each register come before. With 32 registers a vector of
 * 4096 numbers takes two passes: the one that reads it and the one that writes it.
 */
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
enum { LANES = 16, RADIX = 16 };
#elif defined(__AVX__)
enum { LANES = 8, RADIX = 8 };
#else
enum { LANES = 4, RADIX = 8 };
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t places __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));

/* Numbers of a vector in memory: float, or bfloat16 where `brief`. */
INLINE lanes load(const void *x, int64_t i, int brief)
{
    lanes v;
    shorts s;
    if (!brief) {
        memcpy(&v, (const float *)x + i, sizeof v);
        return v;
    }
    memcpy(&s, (const uint16_t *)x + i, sizeof s);
#ifdef __AVX512F__
    return (lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)s), 16);
#else
    return (lanes)(__builtin_convertvector(s, words) << 16);
#endif
}

/* To the nearest bfloat16, even ones for ties; what is no number stays none. */
INLINE void store(void *y, int64_t i, lanes v, int brief)
{
    if (!brief) {
        memcpy((float *)y + i, &v, sizeof v);
        return;
    }
    words bits = (words)v, none = (words)(v != v);
    words nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    nearest = (nearest & ~none) | (none & 0x7fc0);
#ifdef __AVX512F__
    shorts s = (shorts)_mm512_cvtepi32_epi16((__m512i)nearest);
#else
    shorts s = __builtin_convertvector(nearest, shorts);
#endif
    memcpy((uint16_t *)y + i, &s, sizeof s);
}

#define FOUR(OF, i, bit) OF(i, bit), OF(i + 1, bit), OF(i + 2, bit), OF(i + 3, bit)
#ifdef __AVX512F__
#define ALL(OF, bit) FOUR(OF, 0, bit), FOUR(OF, 4, bit), FOUR(OF, 8, bit), FOUR(OF, 12, bit)
#define PLUS_SIGNED(a, b, signs) (lanes)_mm512_fmadd_ps((__m512)(b), (__m512)(signs), (__m512)(a))
#elif defined(__AVX__)
#define ALL(OF, bit) FOUR(OF, 0, bit), FOUR(OF, 4, bit)
#define PLUS_SIGNED(a, b, signs) (a) + (b) * (signs)
#else
#define ALL(OF, bit) FOUR(OF, 0, bit)
#define PLUS_SIGNED(a, b, signs) (a) + (b) * (signs)
#endif

#ifdef __clang__
#define MOVED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define MOVED(v, ...) __builtin_shuffle(v, (places){__VA_ARGS__})
#endif

/* One stage within a register: number i meets the one whose index differs in one bit, and takes the difference where
 * its own bit is set. Products with signs are exact. */
#define PARTNER(i, bit) ((i) ^ (bit))
#define SIGN(i, bit) ((i) & (bit) ? -1.0f : 1.0f)
#define STAGE(v, bit) PLUS_SIGNED(MOVED(v, ALL(PARTNER, bit)), v, ((lanes){ALL(SIGN, bit)}))

INLINE lanes within(lanes v)
{
    v = STAGE(v, 1);
    v = STAGE(v, 2);
#ifdef __AVX__
    v = STAGE(v, 4);
#endif
#ifdef __AVX512F__
    v = STAGE(v, 8);
#endif
    return v;
}

INLINE void stage(lanes *v, int R, int h)
{
#pragma GCC unroll 16
    for (int i = 0; i < R; i++)
        if (!(i & h)) {
            lanes a = v[i], b = v[i + h];
            v[i] = a + b;
            v[i + h] = a - b;
        }
}

INLINE void across(lanes *v, int R)
{
    if (R > 1)
        stage(v, R, 1);
    if (R > 2)
        stage(v, R, 2);
    if (R > 4)
        stage(v, R, 4);
    if (R > 8)
        stage(v, R, 8);
}

typedef struct {
    const float *before, *after, *plus;
    float scale;
    int brief_x, brief_y;
    int64_t size;
} Form;

/* Stages up to R LANES / 2. */
INLINE void first(int R, int brief, const Form *form, const void *x, const float *before, float *y)
{
    for (int64_t start = 0; start < form->size; start += R * LANES) {
        lanes v[RADIX];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            v[r] = load(x, start + r * LANES, brief) * form->scale;
            if (before)
                v[r] *= load(before, start + r * LANES, 0);
            v[r] = within(v[r]);
        }
        across(v, R);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
            store(y, start + r * LANES, v[r], 0);
    }
}

/* Stages from h up to h R / 2. */
INLINE void middle(int R, const Form *form, int64_t h, float *y)
{
    for (int64_t start = 0; start < form->size; start += R * h)
        for (int64_t i = start; i < start + h; i += LANES) {
            lanes v[RADIX];
#pragma GCC unroll 16
            for (int r = 0; r < R; r++)
                v[r] = load(y, i + r * h, 0);
            across(v, R);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++)
                store(y, i + r * h, v[r], 0);
        }
}

/* Those that are left, R h being the size. */
INLINE void last(int R, int brief, const Form *form, const float *x, const float *after, const float *plus, void *y)
{
    int64_t h = form->size / R;
    for (int64_t i = 0; i < h; i += LANES) {
        lanes v[RADIX];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
            v[r] = load(x, i + r * h, 0);
        across(v, R);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            if (after)
                v[r] *= load(after, i + r * h, 0);
            if (plus)
                v[r] += load(plus, i + r * h, 0);
            store(y, i + r * h, v[r], brief);
        }
    }
}

#define EACH(R, call) \
    switch (R) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 4: call(RADIX < 4 ? RADIX : 4); break; \
    case 8: call(RADIX < 8 ? RADIX : 8); break; \
    default: call(RADIX); \
    }

/* Vector v from x to y by way of room: (size,), which may be y. */
static void transform(const Form *form, const void *x, const float *before, const float *after, const float *plus,
                      float *room, void *y)
{
    int64_t registers = form->size / LANES, R = registers < RADIX ? registers : RADIX, h = R * LANES;
#define FIRST(R) form->brief_x ? first(R, 1, form, x, before, room) : first(R, 0, form, x, before, room)
    EACH(R, FIRST)
    for (; form->size / h > RADIX; h *= RADIX)
        middle(RADIX, form, h, room);
#define LAST(R) form->brief_y ? last(R, 1, form, room, after, plus, y) : last(R, 0, form, room, after, plus, y)
    EACH(form->size / h, LAST)
}

/* y: (vectors, size) from x of that shape, each float or bfloat16, for the vectors from start to stop; size is a power
 * of two, at least 16. What vectors are multiplied with before and after, and what is added then, (period, size) each
 * or NULL, is that of vector v at v mod period.
 */
void sylvester(const void *x, int brief_x, const float *before, const float *after, const float *plus, void *y,
               int brief_y, int64_t period, int64_t size, float scale, int64_t start, int64_t stop)
{
    Form form = {before, after, plus, scale, brief_x, brief_y, size};
    float between[brief_y ? size : 1] __attribute__((aligned(64)));
    for (int64_t v = start; v < stop; v++) {
        int64_t own = v % period * size;
        const void *from = brief_x ? (const void *)((const uint16_t *)x + v * size) : (const float *)x + v * size;
        void *to = brief_y ? (void *)((uint16_t *)y + v * size) : (float *)y + v * size;
        transform(&form, from, before ? before + own : 0, after ? after + own : 0, plus ? plus + own : 0,
                  brief_y ? between : to, to);
    }
}
