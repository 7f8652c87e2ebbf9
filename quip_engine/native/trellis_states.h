/* Tiles of the bitshift trellis: from bit strings to states, from states to values (codebooks/trellis.py).

   A tile of 16 x 16 weights is a circle of 256 k bits, the first bit the highest of the first byte. State t is the
   window of L bits that ends at bit (t + 1) k: it needs no other state. A row of a tile is 16 k bits, so its states lie
   in its own bytes and two before them (for row 0: the last two of the tile).

   Computed codes: with AVX-512 one register holds the states of a row, one to a lane of 32 bits. A shuffle brings the
   bytes of its window to each lane, a shift and a mask cut it out; then the code is a few instructions for 16 weights.
   (``levels`` goes another way: trellis_levels.h.)

   Looked up: half a row's windows lie in 64 bits. Loads are the work, and they are halved: one look-up gives two
   weights, by the window of L + k bits that both states lie in, as long as that table is not much larger than the
   cache. (Gathers of AVX-512 are no faster than half as many loads on CPUs of 2024.) */

#ifndef QUIP_TRELLIS_STATES_H
#define QUIP_TRELLIS_STATES_H

#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif
#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define TRELLIS_AVX512 1
#endif

#define INLINE static inline __attribute__((always_inline))

enum { TILE = 16 };

/* Ways from a state to its value. The last four compute it, and need TRELLIS_AVX512 (trellis_codes.h) or, LEVELS,
   TRELLIS_LEVELS (trellis_levels.h). */
enum { ONE_EACH, TWO_EACH, ONE_MAD, MUL1, THREE_INST, LEVELS };

typedef struct {
    const uint8_t *codes; /* (ceil(m / 16), ceil(n / 16), 32 k) */
    int64_t m, n;
    int way, k, L;      /* L: bits of a window; TWO_EACH: of the window of two weights */
    const float *table; /* ONE_EACH: (2^L,); TWO_EACH: (2^L, 2); LEVELS: (256,) int8_t */
    float scale;
} trellis_layer;

INLINE int64_t tiles_of(int64_t n) { return (n + TILE - 1) / TILE; }

INLINE const uint8_t *tile_at(const trellis_layer *layer, int64_t i, int64_t j)
{
    return layer->codes + (i * tiles_of(layer->n) + j) * 32 * layer->k;
}

/* The 64 bits of a tile that end with byte ``end``; ``wraps``: this may be below 8. */
INLINE uint64_t bits_before(const uint8_t *tile, int k, int end, int wraps)
{
    uint64_t bits, last;
    memcpy(&bits, tile + (wraps && end < 8 ? 0 : end - 8), 8);
    bits = __builtin_bswap64(bits);
    if (wraps && end < 8) {
        memcpy(&last, tile + 32 * k - 8, 8);
        bits = bits >> (64 - 8 * end) | __builtin_bswap64(last) << 8 * end;
    }
    return bits;
}

typedef float four __attribute__((vector_size(16), aligned(4)));

/* Two pairs. */
INLINE four pairs_at(const float *a, const float *b)
{
#ifdef __SSE2__
    return (four)_mm_loadh_pd(_mm_load_sd((const double *)a), (const double *)b);
#else
    return (four){a[0], a[1], b[0], b[1]};
#endif
}

/* The values of the last four weights of ``bits``, which then end with the state before those. */
INLINE four last_values(const trellis_layer *layer, uint64_t *bits, int way)
{
    const uint64_t mask = ((uint64_t)1 << layer->L) - 1;
    const int each = way == TWO_EACH ? 2 : 1, k = layer->k;
    const float *at[4];
    for (int i = 4 - each; i >= 0; i -= each) {
        at[i] = layer->table + each * (*bits & mask);
        *bits >>= each * k;
    }
    return way == TWO_EACH ? pairs_at(at[0], at[2]) : (four){*at[0], *at[1], *at[2], *at[3]};
}

INLINE void looked_up(const trellis_layer *layer, const uint8_t *tile, int r, int wraps, int way, four values[4])
{
    for (int half = 0; half < 2; half++) {
        uint64_t bits = bits_before(tile, layer->k, layer->k * (2 * r + half + 1), wraps && r < 4);
        values[2 * half + 1] = last_values(layer, &bits, way);
        values[2 * half] = last_values(layer, &bits, way);
    }
}

#ifdef TRELLIS_AVX512
#include "trellis_codes.h"
#else

/* The values of a row of a tile. */
typedef struct {
    four part[4];
} row;

typedef int row_reader; /* that of looked up values needs to know nothing */

INLINE row_reader reader_of(int r, int k, int L) { return (void)r, (void)k, L; }

INLINE row row_values(const trellis_layer *layer, const uint8_t *tile, int r, int wraps, int way,
                      const row_reader *reader)
{
    row values;
    (void)reader;
    looked_up(layer, tile, r, wraps, way, values.part);
    return values;
}

INLINE row plus_product(row sum, row values, const float *x)
{
    for (int i = 0; i < 4; i++)
        sum.part[i] += values.part[i] * *(const four *)(x + 4 * i);
    return sum;
}

INLINE row times(row values, float scale)
{
    for (int i = 0; i < 4; i++)
        values.part[i] *= scale;
    return values;
}

INLINE float total_of(row sum)
{
    four all = (sum.part[0] + sum.part[1]) + (sum.part[2] + sum.part[3]);
    return (all[0] + all[1]) + (all[2] + all[3]);
}

#endif

#endif
