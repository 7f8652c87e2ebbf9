/* Sylvester's transform y = S_{2^r} x, scaled, of many vectors: a vector is read once and written once, in the type it
 * comes in and the one that is wanted, and stays in the first cache between.
 *
 * Stages go in passes over the vector. In one, RADIX registers of LANES numbers, h apart, meet in all stages from h on;
 * in the first, they lie side by side, and the stages within each register come before. With 32 registers of 16 a
 * vector of 4096 numbers takes two passes: the one that reads it and the one that writes it.
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

/* One vector on its way; `ahead` is the next x. */
typedef struct {
    const void *x, *ahead;
    const float *before, *after, *plus;
    float *room, scale;
    void *y;
    int brief_x, brief_y;
    int64_t size;
} Vector;

/* Stages up to R LANES / 2. Memory of y that nothing was written to is asked for before it is needed. */
INLINE void first(int R, const Vector *on)
{
    for (int64_t start = 0; start < on->size; start += R * LANES) {
        lanes v[RADIX];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            int64_t i = start + r * LANES;
            v[r] = load(on->x, i, on->brief_x) * on->scale;
            if (on->before)
                v[r] *= load(on->before, i, 0);
            v[r] = within(v[r]);
            if (on->brief_y && i % 32 == 0)
                __builtin_prefetch((uint16_t *)on->y + i, 1, 2);
        }
        across(v, R);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
            store(on->room, start + r * LANES, v[r], 0);
    }
}

/* Stages from h up to h R / 2. */
INLINE void middle(int R, int64_t h, const Vector *on)
{
    for (int64_t start = 0; start < on->size; start += R * h)
        for (int64_t i = start; i < start + h; i += LANES) {
            lanes v[RADIX];
#pragma GCC unroll 16
            for (int r = 0; r < R; r++)
                v[r] = load(on->room, i + r * h, 0);
            across(v, R);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++)
                store(on->room, i + r * h, v[r], 0);
        }
}

/* Those that are left, R h being the size. The next x is fetched: while sums are made nothing else waits for memory. */
INLINE void last(int R, const Vector *on)
{
    int64_t h = on->size / R;
    for (int64_t i = 0; i < h; i += LANES) {
        lanes v[RADIX];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
            v[r] = load(on->room, i + r * h, 0);
        across(v, R);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            if (on->after)
                v[r] *= load(on->after, i + r * h, 0);
            if (on->plus)
                v[r] += load(on->plus, i + r * h, 0);
            store(on->y, i + r * h, v[r], on->brief_y);
            if (i % (on->brief_x ? 32 : 16) == 0)
                __builtin_prefetch((const char *)on->ahead + ((i + r * h) << (2 - on->brief_x)), 0, 2);
        }
    }
}

INLINE void transform(const Vector *on)
{
    int64_t registers = on->size / LANES, h = LANES * (registers < RADIX ? registers : RADIX);
    switch (h / LANES) {
    case 1: first(1, on); break;
    case 2: first(2, on); break;
    case 4: first(4, on); break;
    case 8: first(8, on); break;
    default: first(RADIX, on);
    }
    for (; on->size / h > RADIX; h *= RADIX)
        middle(RADIX, h, on);
    switch (on->size / h) {
    case 1: last(1, on); break;
    case 2: last(2, on); break;
    case 4: last(4, on); break;
    case 8: last(8, on); break;
    default: last(RADIX, on);
    }
}

INLINE void each(int brief_x, int brief_y, const void *x, const float *before, const float *after, const float *plus,
                 void *y, int64_t period, int64_t size, float scale, int64_t start, int64_t stop)
{
    float between[brief_y ? size : 1] __attribute__((aligned(64)));
    const char *from = (const char *)x + (start * size << (2 - brief_x));
    char *to = (char *)y + (start * size << (2 - brief_y));
    for (int64_t v = start; v < stop; v++) {
        int64_t own = v % period * size;
        const char *next = v + 1 < stop ? from + (size << (2 - brief_x)) : from;
        Vector on = {from, next, before ? before + own : 0, after ? after + own : 0, plus ? plus + own : 0,
                     brief_y ? between : (float *)to, scale, to, brief_x, brief_y, size};
        transform(&on);
        from = next, to += size << (2 - brief_y);
    }
}

/* y: (vectors, size) from x of that shape, each float, or bfloat16 where it is brief, for the vectors from start to
 * stop; size is a power of two, at least 16. What vectors are multiplied with before and after, and what is added then,
 * (period, size) each or NULL, is that of vector v at v mod period.
 */
void sylvester(const void *x, int brief_x, const float *before, const float *after, const float *plus, void *y,
               int brief_y, int64_t period, int64_t size, float scale, int64_t start, int64_t stop)
{
#define EACH(brief_x, brief_y) \
    each(brief_x, brief_y, x, before, after, plus, y, period, size, scale, start, stop)
    if (brief_x && brief_y)
        EACH(1, 1);
    else if (brief_x)
        EACH(1, 0);
    else if (brief_y)
        EACH(0, 1);
    else
        EACH(0, 0);
}
