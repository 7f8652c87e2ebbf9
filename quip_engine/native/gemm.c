/* y = x W^T for bfloat16 x and W, sums in float32, where the CPU multiplies pairs of bfloat16 (AVX512_BF16).
 *
 * One instruction adds to 16 sums the products of two numbers each: here of 16 rows of x, laid out with their pairs side
 * by side, with one pair of a row of W, which is read as it lies. So W, which was unpacked a moment ago and is used
 * once, needs no copy, and x, laid out once, is rounded to bfloat16 on the way. 4 registers of x times 6 rows of W keep
 * 24 sums in registers, for DEPTH pairs: that many, since loading and storing the sums takes as long as 50 of them. As
 * long a part of a panel of x stays in the second cache, with the sums of ROWS rows of W that pass; many rows, as x
 * comes from farther away for all of them: while they do, the part of x behind this one, which is next, is fetched.
 * Threads share rows by blocks. Every sum has the same order whatever is multiplied with it.
 *
 * With AMX torch is faster, and there is nothing here.
 */
#include <stdint.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && !defined(__AMX_BF16__)

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 16, PANEL = 4 * LANES, DEPTH = 1024, BLOCK = 6 * LANES, ROWS = 8 * BLOCK };

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t padded(int64_t b) { return (b + LANES - 1) / LANES * LANES; }
INLINE __mmask16 first(int64_t count) { return count < LANES ? (__mmask16)((1u << count) - 1) : 0xffff; }

INLINE void transpose(__m512i r[LANES])
{
    __m512i q[LANES];
    for (int i = 0; i < 16; i += 2)
        q[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), q[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            r[i + 2 * k] = _mm512_unpacklo_epi64(q[i + k], q[i + k + 2]);
            r[i + 2 * k + 1] = _mm512_unpackhi_epi64(q[i + k], q[i + k + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int k = 0; k < 4; k++) {
            q[i + k] = _mm512_shuffle_i32x4(r[i + k], r[i + k + 4], 0x88);
            q[i + k + 4] = _mm512_shuffle_i32x4(r[i + k], r[i + k + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(q[i], q[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(q[i], q[i + 8], 0xdd);
    }
}

int64_t gemm_room(int64_t b, int64_t n) { return n % 2 ? 0 : padded(b) * n; }
int gemm_panels(int64_t b) { return (int)((b + PANEL - 1) / PANEL); }
int gemm_blocks(int64_t rows) { return (int)((rows + BLOCK - 1) / BLOCK); }

/* `left` numbers of a row of x, bfloat16 where `brief`, else float; zeros in the place of what lies behind them. */
INLINE __m512i pairs_of(const void *x, int64_t at, int64_t left, int brief)
{
    if (brief)
        return _mm512_maskz_loadu_epi32(first(left / 2), (const uint16_t *)x + at);
    const float *from = (const float *)x + at;
    __m512 low = _mm512_maskz_loadu_ps(first(left), from), high = _mm512_setzero_ps();
    if (left > LANES)
        high = _mm512_maskz_loadu_ps(first(left - LANES), from + LANES);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

INLINE void lay_out(const void *x, int brief, int64_t b, int64_t n, int64_t start, int64_t stop, uint32_t *laid_out)
{
    int64_t pairs = n / 2, end = least(stop * PANEL, padded(b));
    for (int64_t panel = start * PANEL; panel < end; panel += PANEL) {
        int64_t width = least(PANEL, end - panel);
        for (int64_t t = panel; t < panel + width; t += LANES)
            for (int64_t p = 0; p < pairs; p += LANES) {
                __m512i v[LANES];
                for (int i = 0; i < LANES; i++)
                    v[i] = t + i < b ? pairs_of(x, (t + i) * n + 2 * p, n - 2 * p, brief) : _mm512_setzero_si512();
                transpose(v);
                for (int i = 0; i < least(LANES, pairs - p); i++)
                    _mm512_storeu_si512(laid_out + panel * pairs + (p + i) * width + t - panel, v[i]);
            }
    }
}

/* x: (b, n), its panels from start to stop, as (n / 2, rows of the panel, 2) each, rows of zeros behind the last. */
void gemm_lay_out(const void *x, int brief, int64_t b, int64_t n, int64_t start, int64_t stop, uint32_t *laid_out)
{
    if (brief)
        lay_out(x, 1, b, n, start, stop, laid_out);
    else
        lay_out(x, 0, b, n, start, stop, laid_out);
}

/* sums: (R, PANEL), U registers of each, += the products of `pairs` pairs. As many numbers `ahead` are fetched. */
INLINE void tile(int U, int R, const uint32_t *x, const uint32_t *ahead, const uint16_t *W, int64_t n, int64_t pairs,
                 int add, float *sums)
{
    __m512 sum[24];
    for (int r = 0; r < R; r++)
        for (int u = 0; u < U; u++)
            sum[r * U + u] = add ? _mm512_loadu_ps(sums + r * PANEL + LANES * u) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; p++) {
        __m512bh here[4];
        if (U > 2 && p % LANES == 0) {
            __builtin_prefetch(ahead + p, 0, 2);
            for (int r = R; r < 2 * R; r++) /* a row is too short for the CPU to guess where the next ones are */
                __builtin_prefetch(W + r * n + 2 * p);
        }
#pragma GCC unroll 4
        for (int u = 0; u < U; u++)
            here[u] = (__m512bh)_mm512_loadu_si512(x + (p * U + u) * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            int32_t pair;
            memcpy(&pair, W + r * n + 2 * p, sizeof pair);
            __m512bh w = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int u = 0; u < U; u++)
                sum[r * U + u] = _mm512_dpbf16_ps(sum[r * U + u], here[u], w);
        }
    }
    for (int r = 0; r < R; r++)
        for (int u = 0; u < U; u++)
            _mm512_storeu_ps(sums + r * PANEL + LANES * u, sum[r * U + u]);
}

INLINE void pass(int U, int R, const uint32_t *x, const uint16_t *W, int64_t n, int64_t rows, int64_t pairs, int add,
                 float *sums)
{
    int64_t r = 0;
    for (; r + R <= rows; r += R)
        tile(U, R, x, x + pairs * (U * LANES + r / R % (U * LANES)), W + r * n, n, pairs, add, sums + r * PANEL);
    for (; r < rows; r++)
        tile(U, 1, x, x, W + r * n, n, pairs, add, sums + r * PANEL);
}

/* sums: (ROWS, PANEL) of W: (rows, n) with a panel of x, `width` of its rows. */
static void multiply(const uint32_t *x, int64_t width, int64_t n, const uint16_t *W, int64_t rows, float *sums)
{
    for (int64_t p = 0; p < n / 2; p += DEPTH) {
        int64_t pairs = least(DEPTH, n / 2 - p);
        const uint32_t *here = x + p * width;
        if (width == 4 * LANES)
            pass(4, 6, here, W + 2 * p, n, rows, pairs, p > 0, sums);
        else if (width == 3 * LANES)
            pass(3, 8, here, W + 2 * p, n, rows, pairs, p > 0, sums);
        else if (width == 2 * LANES)
            pass(2, 12, here, W + 2 * p, n, rows, pairs, p > 0, sums);
        else
            pass(1, 12, here, W + 2 * p, n, rows, pairs, p > 0, sums);
    }
}

/* y: (b, rows), `next` from row to row, of x as laid out and W: (rows, n); its columns from block start to stop. */
void gemm(const uint32_t *x, int64_t b, int64_t n, const uint16_t *W, int64_t rows, float *y, int64_t next,
          int64_t start, int64_t stop)
{
    float sums[ROWS * PANEL];
    int64_t end = least(stop * BLOCK, rows);
    for (int64_t row = start * BLOCK; row < end; row += ROWS)
        for (int64_t t = 0; t < b; t += PANEL) {
            int64_t count = least(ROWS, end - row), tokens = least(PANEL, b - t);
            multiply(x + t * (n / 2), padded(tokens), n, W + row * n, count, sums);
            for (int64_t i = 0; i < tokens; i += LANES)
                for (int64_t r = 0; r < count; r += LANES) {
                    __m512i v[LANES];
                    for (int k = 0; k < LANES; k++)
                        v[k] = _mm512_loadu_si512(sums + (r + k) * PANEL + i);
                    transpose(v);
                    for (int64_t k = 0; k < least(LANES, tokens - i); k++)
                        _mm512_mask_storeu_epi32(y + (t + i + k) * next + row + r, first(count - r), v[k]);
                }
        }
}

#else

int64_t gemm_room(int64_t b, int64_t n) { return 0 * b * n; }

#endif
