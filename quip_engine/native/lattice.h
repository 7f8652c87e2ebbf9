/* What the products with lattice codes share. A layer is a sum of stages, each a matrix of codes:
 *
 *     W~_ij = sum over stages of factor * point(code of row i and block j / d), coordinate j mod d
 *
 * A row of codes is walked in chunks of 64. Beyond the end of a row codes are 0 and so is x: every chunk is full.
 */

#pragma once

#include <stdint.h>
#include <string.h>

enum { CODES = 64, WIDEST = 8, SLICE = 4 * CODES, GROUP = 16, GROUPS = SLICE / GROUP, ROWS = 4 };
enum { E8P_CODES, TABLE_OF_8, TABLE_OF_4 };

#if defined(__AVX512BW__) && defined(__AVX512VBMI__) && defined(__AVX512VNNI__) && defined(__GFNI__)
#define LATTICE_AVX512 1
#else
#define LATTICE_AVX512 0
#endif

#define INLINE static inline __attribute__((always_inline))

/* Points are whole numbers here; their unit is part of ``factor``. Made by products/lattice.py. */
typedef struct {
    int64_t kind;
    const uint8_t *codes;  /* (m, blocks), two bytes each for E8P, else one */
    const uint8_t *planes; /* (d / 2, 256): nibbles of coordinates; E8P (2, 256): pairs of bits */
    const int8_t *values;  /* (16): what a nibble stands for */
    const int8_t *points;  /* (256, d); E8P: magnitudes, coordinate 7 negative where their sum is odd */
    const int8_t *signs;   /* E8P (256, 2, 8): -1 where negated, and what to add then */
    float factor;
} lattice_stage;

INLINE int64_t dimension_of(int64_t kind) { return kind == TABLE_OF_4 ? 4 : 8; }
INLINE int64_t bytes_of(int64_t kind) { return kind == E8P_CODES ? 2 : 1; }

/* Bytes of a row of codes. */
INLINE int64_t length_of(int64_t kind, int64_t n)
{
    return (n + dimension_of(kind) - 1) / dimension_of(kind) * bytes_of(kind);
}

/* The codes of a chunk; at the end of a row from a copy that zeros follow. */
INLINE const uint8_t *chunk_of(int64_t kind, const uint8_t *row, int64_t n, int64_t chunk, uint8_t copy[2 * CODES])
{
    int64_t size = CODES * bytes_of(kind), left = length_of(kind, n) - chunk * size;
    if (left >= size)
        return row + chunk * size;
    memset(copy, 0, size);
    return memcpy(copy, row + chunk * size, left);
}

/* w: (64 d) the points of a chunk, in the order of columns. */
INLINE void decode_chunk(const lattice_stage *s, int64_t kind, const uint8_t *codes, int8_t *w)
{
    typedef int8_t point __attribute__((vector_size(8)));
    int64_t d = dimension_of(kind);
    for (int i = 0; i < CODES; i++) {
        if (kind != E8P_CODES) {
            memcpy(w + d * i, s->points + d * codes[i], d);
            continue;
        }
        uint8_t z = codes[2 * i], a = codes[2 * i + 1];
        point magnitude, negated, added;
        memcpy(&magnitude, s->points + 8 * a, 8);
        memcpy(&negated, s->signs + 16 * z, 8);
        memcpy(&added, s->signs + 16 * z + 8, 8);
        magnitude = (magnitude ^ negated) + added;
        memcpy(w + 8 * i, &magnitude, 8);
    }
}

/* x as the products read it, in slices of 256 columns: 4 neighbouring coordinates of a chunk of codes.
 *
 * x becomes whole numbers with a scale for each group of 16 columns. With AVX-512 they have digits to the base 256,
 * three for floats and two for ``int8``, and the digits of a slice stand by coordinate. There 16 is added to
 * weights to have them positive, so a group starts with -16 times its sum. Elsewhere ``int8`` has one number of 16
 * bits for each column, in the order of columns, and floats stay what they are.
 */
typedef struct {
    int8_t digits[4][CODES];
    int32_t start[GROUPS];
} lattice_digits;

typedef struct {
    float scales[GROUPS];
#if LATTICE_AVX512
    lattice_digits numbers[]; /* the most significant first */
#else
    int16_t numbers[]; /* (SLICE) */
#endif
} lattice_slice;

INLINE int digits_of(int int8) { return int8 ? 2 : 3; }

INLINE int64_t slice_bytes(int int8)
{
#if LATTICE_AVX512
    return sizeof(lattice_slice) + digits_of(int8) * sizeof(lattice_digits);
#else
    return int8 ? sizeof(lattice_slice) + SLICE * sizeof(int16_t) : SLICE * sizeof(float);
#endif
}
