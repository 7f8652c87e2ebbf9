/* Short floating-point types as their bits. */

#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __F16C__
#include <immintrin.h>
#endif

static inline float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Exact: the exponent is moved by a product, which makes subnormals right, too. */
static inline float half_to_float(uint16_t h)
{
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    float size = float_of_bits((uint32_t)(h & 0x7fff) << 13) * 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &size, 4);
    bits |= (h & 0x7c00) == 0x7c00 ? 0x7f800000 : 0; /* infinite, or not a number */
    return float_of_bits(bits | (uint32_t)(h & 0x8000) << 16);
#endif
}

/* The nearest bfloat16, even ones for ties; for finite numbers. */
static inline uint16_t to_bfloat16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
