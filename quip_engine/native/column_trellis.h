/* Layers of codebooks/column_trellis.py as the C kernels read them.
 *
 * A column is S strings of B bits, one after the other in one string of bits, lowest bit of a byte first. Element t of
 * a string is the window of L bits that ends at bit end(t + 1), on a circle:
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

#if defined(__AVX512VBMI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__GFNI__) && \
    defined(__AVX512VNNI__)
#define WINDOWS_IN_VECTORS
enum { COMPUTED = 1 }; /* levels */
#else
enum { COMPUTED = 0 };
#endif

enum { LONGEST = 384, WORDS = 64 }; /* steps of a string (T < 384) and words it takes, at less than 8 bits a step */
enum { MOST = 4, WIDEST = 16 };     /* bits of the second of two steps in a table, and of the window of both */
enum { RATES = 64, WIDE = 32 };    /* rates; columns that are read together */

typedef struct {
    const uint8_t *codes, *rates, *scales, *row_scales; /* row_scales: NULL where there are none */
    const float *base, *powers;                         /* of the step of a scale, row scales: 256 and 64 */
    const float *row_powers, *inverse_gains;            /* 1 / g(R) by the number of the rate: 64 */
    const float *values;                                /* by window: 2^L of each code; see decode_singles */
    const float *pairs;                                 /* of two steps, by the window of both; see pair_table */
    const int8_t *levels;                               /* 256 of `levels`, 256 of `companded`; see column_levels.h */
    int64_t octets, m, n, T, S, L, group;
    int64_t rate_bits, rate_eighths, scale_bits; /* eighths of a bit that a rate counts */
    int64_t levels_to, companded_to;             /* eighths */
} column_layer;

typedef struct {
    int64_t number, at;    /* of the column; the bit where it begins */
    int64_t eighths, bits; /* e, B */
    float factor;          /* of its values */
} column;

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

/* The column behind another one; of number -1 for the first. */
static inline column next_column(const column_layer *a, column before)
{
    const int64_t i = before.number + 1, g = i / a->group;
    column c = {i, before.at + a->S * before.bits, before.eighths, before.bits, before.factor};
    if (i == g * a->group) {
        const int64_t rate = code_at(a->rates, a->rate_bits, g);
        c.eighths = rate * a->rate_eighths;
        c.bits = (a->T * c.eighths + 4) >> 3;
        c.factor = a->base[0] * a->powers[code_at(a->scales, a->scale_bits, g)] * a->inverse_gains[rate];
    }
    return c;
}

/* How columns are read that are read together. */
typedef struct {
    column levels[WIDE], singly[WIDE]; /* of levels computed, of values looked up */
    int64_t count, level_count, single_count; /* in all, with those that have no bits */
} columns;

/* Up to `count` columns behind `last`, which becomes the last of them, without those that have no bits. */
static inline columns next_columns(const column_layer *a, column *last, int64_t count)
{
    columns found = {.count = 0};
    for (; found.count < count && last->number + 1 < a->n; found.count++) {
        *last = next_column(a, *last);
        if (COMPUTED && last->bits && last->eighths <= a->companded_to)
            found.levels[found.level_count++] = *last;
        else if (last->bits)
            found.singly[found.single_count++] = *last;
    }
    return found;
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

/* Values of two steps, of which the second takes k bits: `levels` with k = 1 to 3, `companded` with 3 and 4. */
static inline const float *pair_table(const column_layer *a, int64_t eighths, int64_t k)
{
    return a->pairs + ((int64_t)4 << a->L) * (((int64_t)1 << (k - 1)) - 1 + 4 * (eighths > a->levels_to));
}

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
        table[i] = pair_table(a, eighths, second - first);
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
    const int64_t code = (eighths > a->levels_to) + (eighths > a->companded_to);
    const float *values = a->values + (code << a->L); /* levels, companded, quantile, idle */
    int64_t shift[8], idle[8];
    for (int i = 0; i < 8; i++) {
        shift[i] = ((i + 1) * eighths + 4) >> 3;
        idle[i] = 3 * (shift[i] == (i * eighths + 4) >> 3) << a->L;
    }
    const int64_t half = shift[3];
    for (int i = 4; i < 8; i++)
        shift[i] -= half;
    int64_t at = 64 - a->L;
    for (int64_t t = 0; t < a->T; t += 8, at += eighths) {
        uint64_t early = bits_at(words, at), late = bits_at(words, at + half);
        for (int i = 0; i < 4; i++) {
            out[t + i] = values[(early >> shift[i] & mask) + idle[i]];
            out[t + 4 + i] = values[(late >> shift[4 + i] & mask) + idle[4 + i]];
        }
    }
}

/* Values of a string, in units of its factor: T, and up to 7 behind them that mean nothing. */
static inline void decode_string(const column_layer *a, const uint64_t *words, int64_t eighths, float *out)
{
    if (paired(a, eighths))
        decode_pairs(a, words, eighths, out);
    else
        decode_singles(a, words, eighths, out);
}

#endif
