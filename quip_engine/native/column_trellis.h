/* Layers of codebooks/column_trellis.py as the C kernels read them.
 *
 * A column is S strings of B bits, one after the other in one string of bits, lowest bit of a byte first. Element t of a
 * string is the window of L bits that ends at bit end(t + 1), on a circle:
 *
 *     end(t) = floor(t R + 1/2) = (t e + 4) >> 3        e = 8 R: rates are whole eighths, so end(t + 8) = end(t) + e
 *
 * A string is copied to whole words behind its own end first. Then no window wraps, and all windows of eight steps lie
 * in one pattern, known from e. The first bit of a window is the highest of its state; here it is the lowest, so tables
 * are in the order of mirrored states.
 */
#ifndef QUIP_COLUMN_TRELLIS_H
#define QUIP_COLUMN_TRELLIS_H

#include <stdint.h>
#include <string.h>

enum { LONGEST = 384, WORDS = 64 }; /* steps of a string (T < 384) and words it takes, at less than 8 bits a step */
enum { MOST = 4, WIDEST = 16 };     /* bits of the second of two steps in a table, and of the window of both */
enum { ROWS = 4 };                  /* of x at once */

typedef struct {
    const uint8_t *codes, *rates, *scales, *row_scales; /* row_scales: NULL where there are none */
    const float *base, *powers;                         /* of the step of a scale, row scales: 256 and 64 */
    const float *row_powers, *inverse_gains;            /* 1 / g(R) by the number of the rate: 64 */
    const float *values;                                /* by window: 2^L of steps with bits, 2^L of those without */
    const float *pairs;                                 /* of two steps, by the window of both; see pair_offset */
    const int16_t *curve;                               /* see column_computed.h; in units of `unit` */
    float unit;
    int64_t octets, m, n, T, S, L, group;
    int64_t rate_bits, rate_eighths, scale_bits; /* eighths of a bit that a rate counts */
    int64_t multipliers[2], tail_bits;
} column_layer;

/* A group of columns, one after the other. */
typedef struct {
    int64_t first, columns, at; /* columns; the bit where the first one begins */
    int64_t eighths, bits;      /* e, B */
    float factor;               /* of its values */
} column_group;

static inline uint64_t load_word(const void *from)
{
    uint64_t word;
    memcpy(&word, from, 8);
    return word;
}

static inline int64_t code_at(const uint8_t *packed, int64_t bits, int64_t i)
{
    int64_t at = i * bits, shift = at & 7;
    int64_t two = packed[at >> 3] | (shift + bits > 8 ? packed[(at >> 3) + 1] << 8 : 0);
    return two >> shift & ((1 << bits) - 1);
}

/* Group number g; `before` is the one before it. */
static inline column_group next_group(const column_layer *a, int64_t g, column_group before)
{
    int64_t rate = code_at(a->rates, a->rate_bits, g), left = a->n - g * a->group;
    column_group group = {.first = g * a->group, .columns = left < a->group ? left : a->group};
    group.at = g ? before.at + before.columns * a->S * before.bits : 0;
    group.eighths = rate * a->rate_eighths;
    group.bits = (a->T * group.eighths + 4) >> 3;
    group.factor = a->base[0] * a->powers[code_at(a->scales, a->scale_bits, g)] * a->inverse_gains[rate];
    return group;
}

/* 64 bits from bit `at` on, zeros where the codes have an end. */
static inline uint64_t word_at(const column_layer *a, int64_t at)
{
    uint8_t bytes[16] = {0};
    int64_t octet = at >> 3, shift = at & 7, left = a->octets - octet;
    if (octet >= 0 && left > 0)
        memcpy(bytes, a->codes + octet, left < 9 ? left : 9);
    return load_word(bytes) >> shift | (uint64_t)bytes[8] << 1 << (63 - shift);
}

/* words[1] .. of the string of `bits` bits at bit `at`, and in the highest bits of words[0] its last L. */
static inline void copy_string(const column_layer *a, int64_t at, int64_t bits, uint64_t *words)
{
    const int64_t shift = at & 7, last = at + bits - a->L, count = (bits + 511) / 512 * 8;
    if (last < 0 || (at >> 3) + 8 * count + 8 > a->octets) {
        words[0] = word_at(a, last) << (64 - a->L);
        for (int64_t i = 0; i < bits; i += 64)
            words[1 + i / 64] = word_at(a, at + i);
        return;
    }
    const uint8_t *from = a->codes + (at >> 3);
    words[0] = load_word(a->codes + (last >> 3)) >> (last & 7) << (64 - a->L);
    for (int64_t i = 0; i < count; i += 8)
        for (int64_t j = i; j < i + 8; j++)
            words[1 + j] = load_word(from + 8 * j) >> shift | load_word(from + 8 * j + 8) << 1 << (63 - shift);
}

/* Where the table of pairs with k = 1, 2 .. bits between them begins: behind those of fewer bits. */
static inline int64_t pair_offset(int64_t L, int64_t k) { return ((int64_t)2 << L) * (((int64_t)1 << (k - 1)) - 1); }

static inline int paired(const column_layer *a, int64_t eighths)
{
    const int64_t most = (eighths + 7) / 8; /* of a step */
    return a->pairs && eighths >= 8 && most <= MOST && a->L + most <= WIDEST;
}

static inline uint64_t bits_at(const uint64_t *words, int64_t at)
{
    return load_word((const uint8_t *)words + (at >> 3)) >> (at & 7); /* at least 57 */
}

static inline void decode_pairs(const column_layer *a, const uint64_t *words, int64_t eighths, float *out)
{
    int64_t shift[4], mask[4];
    const float *table[4];
    for (int i = 0; i < 4; i++) {
        int64_t first = ((2 * i + 1) * eighths + 4) >> 3, second = ((2 * i + 2) * eighths + 4) >> 3;
        shift[i] = first;
        mask[i] = ((int64_t)1 << (a->L + second - first)) - 1;
        table[i] = a->pairs + 2 * pair_offset(a->L, second - first);
    }
    int64_t at = 64 - a->L;
    for (int64_t t = 0; t < a->T; t += 8, at += eighths) {
        uint64_t bits = bits_at(words, at);
        for (int i = 0; i < 4; i++)
            memcpy(out + t + 2 * i, table[i] + 2 * (bits >> shift[i] & mask[i]), 8);
    }
}

static inline void decode_singles(const column_layer *a, const uint64_t *words, int64_t eighths, float *out)
{
    const uint64_t mask = ((uint64_t)1 << a->L) - 1;
    int64_t shift[8], idle[8];
    for (int i = 0; i < 8; i++) {
        shift[i] = ((i + 1) * eighths + 4) >> 3;
        idle[i] = (shift[i] == (i * eighths + 4) >> 3) << a->L;
    }
    const int64_t half = shift[3];
    for (int i = 4; i < 8; i++)
        shift[i] -= half;
    int64_t at = 64 - a->L;
    for (int64_t t = 0; t < a->T; t += 8, at += eighths) {
        uint64_t early = bits_at(words, at), late = bits_at(words, at + half);
        for (int i = 0; i < 4; i++) {
            out[t + i] = a->values[(early >> shift[i] & mask) + idle[i]];
            out[t + 4 + i] = a->values[(late >> shift[4 + i] & mask) + idle[4 + i]];
        }
    }
}

/* Values of a string, in units of the group's factor: T, and up to 7 behind them that mean nothing. */
static inline void decode_string(const column_layer *a, const uint64_t *words, int64_t eighths, float *out)
{
    if (paired(a, eighths))
        decode_pairs(a, words, eighths, out);
    else
        decode_singles(a, words, eighths, out);
}

#endif
