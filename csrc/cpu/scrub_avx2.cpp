// Search for invalid codewords, compiled for AVX2.
#if defined(__x86_64__)
#define PROACT_TARGET "avx2,fma,f16c"

#include <cstring>

#include "prefetch.hpp"
#include "scrub_kernels.hpp"
#include "vectors.hpp"

namespace proact {

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(PROACT_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace avx2 {
using Bytes = __m256i;

/// Shifts each number of a vector; the intrinsics cause false warnings in GCC.
template <class Number>
PROACT_ELEMENTWISE Bytes shifted_down(Bytes x, Number bits) {
    return reinterpret_cast<Bytes>(reinterpret_cast<Vector<Number, sizeof(Bytes)>>(x) >> bits);
}
template <class Number>
PROACT_ELEMENTWISE Bytes shifted_up(Bytes x, Number bits) {
    return reinterpret_cast<Bytes>(reinterpret_cast<Vector<Number, sizeof(Bytes)>>(x) << bits);
}

PROACT_ELEMENTWISE Bytes zero() { return _mm256_setzero_si256(); }
PROACT_ELEMENTWISE Bytes load(const unsigned char* x) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
}
PROACT_ELEMENTWISE Bytes table(const std::uint8_t* x) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(x)));
}
PROACT_ELEMENTWISE Bytes looked_up(Bytes table, Bytes index) {
    return _mm256_shuffle_epi8(table, index);
}
PROACT_ELEMENTWISE Bytes low_nibbles(Bytes x) {
    return _mm256_and_si256(x, _mm256_set1_epi8(0x0f));
}
PROACT_ELEMENTWISE Bytes high_nibbles(Bytes x) {
    return low_nibbles(shifted_down<std::uint16_t>(x, 4));
}
PROACT_ELEMENTWISE Bytes exclusive_or(Bytes a, Bytes b, Bytes c) {
    return _mm256_xor_si256(a, _mm256_xor_si256(b, c));
}
PROACT_ELEMENTWISE Bytes either(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
PROACT_ELEMENTWISE bool any(Bytes x) { return _mm256_testz_si256(x, x) == 0; }

/// Moves the lower 32 bits of each 64 bits of a and b into a, and the upper ones into b.
PROACT_ELEMENTWISE void separate_words(Bytes& a, Bytes& b) {
    const __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    a = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88));
    b = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xdd));
}
/// The same for the halves of each 32 bits.
PROACT_ELEMENTWISE void separate_halves(Bytes& a, Bytes& b) {
    const Bytes upper = _mm256_blend_epi16(shifted_down<std::uint32_t>(a, 16), b, 0xaa);
    a = _mm256_blend_epi16(a, shifted_up<std::uint32_t>(b, 16), 0xaa);
    b = upper;
}
/// The same for the halves of each 16 bits.
PROACT_ELEMENTWISE void separate_bytes(Bytes& a, Bytes& b) {
    const Bytes lower = _mm256_set1_epi16(0x00ff);
    const Bytes upper =
        _mm256_or_si256(shifted_down<std::uint16_t>(a, 8), _mm256_andnot_si256(lower, b));
    a = _mm256_or_si256(_mm256_and_si256(a, lower), shifted_up<std::uint16_t>(b, 8));
    b = upper;
}

#include "scrub_kernels.inl"
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

FirstInvalid avx2_first_invalid(std::uint32_t codeword_bytes, std::uint32_t syndrome_bytes) {
    switch (codeword_bytes) {
        case 1: return avx2::first_invalid_for<1>(syndrome_bytes);
        case 2: return avx2::first_invalid_for<2>(syndrome_bytes);
        case 4: return avx2::first_invalid_for<4>(syndrome_bytes);
        default: return avx2::first_invalid_for<8>(syndrome_bytes);
    }
}

}  // namespace proact

#endif
