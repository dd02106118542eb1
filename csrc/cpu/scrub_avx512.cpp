// Search for invalid codewords, compiled for AVX-512.
#if defined(__x86_64__)
#define PROACT_TARGET "avx2,fma,avx512f,avx512dq,avx512vl,avx512bw"

#include <cstring>

#include "prefetch.hpp"
#include "scrub_kernels.hpp"
#include "vectors.hpp"

namespace proact {

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(PROACT_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw")
#endif
namespace avx512 {
using Bytes = __m512i;

/// Shifts each number of a vector; the intrinsics cause false warnings in GCC.
template <class Number>
PROACT_ELEMENTWISE Bytes shifted_down(Bytes x, Number bits) {
    return reinterpret_cast<Bytes>(reinterpret_cast<Vector<Number, sizeof(Bytes)>>(x) >> bits);
}
template <class Number>
PROACT_ELEMENTWISE Bytes shifted_up(Bytes x, Number bits) {
    return reinterpret_cast<Bytes>(reinterpret_cast<Vector<Number, sizeof(Bytes)>>(x) << bits);
}

PROACT_ELEMENTWISE Bytes zero() { return _mm512_setzero_si512(); }
PROACT_ELEMENTWISE Bytes load(const unsigned char* x) { return _mm512_loadu_si512(x); }
PROACT_ELEMENTWISE Bytes table(const std::uint8_t* x) {
    // The zero mask only avoids a false warning about an undefined register.
    return _mm512_maskz_broadcast_i32x4(static_cast<__mmask16>(-1),
                                        _mm_load_si128(reinterpret_cast<const __m128i*>(x)));
}
PROACT_ELEMENTWISE Bytes looked_up(Bytes table, Bytes index) {
    return _mm512_shuffle_epi8(table, index);
}
PROACT_ELEMENTWISE Bytes low_nibbles(Bytes x) {
    return _mm512_and_si512(x, _mm512_set1_epi8(0x0f));
}
PROACT_ELEMENTWISE Bytes high_nibbles(Bytes x) {
    return low_nibbles(shifted_down<std::uint16_t>(x, 4));
}
PROACT_ELEMENTWISE Bytes exclusive_or(Bytes a, Bytes b, Bytes c) {
    return _mm512_ternarylogic_epi64(a, b, c, 0x96);
}
PROACT_ELEMENTWISE Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
PROACT_ELEMENTWISE bool any(Bytes x) { return _mm512_test_epi64_mask(x, x) != 0; }

/// Moves the lower 32 bits of each 64 bits of a and b into a, and the upper ones into b.
PROACT_ELEMENTWISE void separate_words(Bytes& a, Bytes& b) {
    const __m512 x = _mm512_castsi512_ps(a), y = _mm512_castsi512_ps(b);
    a = _mm512_castps_si512(_mm512_shuffle_ps(x, y, 0x88));
    b = _mm512_castps_si512(_mm512_shuffle_ps(x, y, 0xdd));
}
/// The same for the halves of each 32 bits.
PROACT_ELEMENTWISE void separate_halves(Bytes& a, Bytes& b) {
    constexpr auto odd = static_cast<__mmask32>(0xaaaaaaaa);
    const Bytes upper = _mm512_mask_blend_epi16(odd, shifted_down<std::uint32_t>(a, 16), b);
    a = _mm512_mask_blend_epi16(odd, a, shifted_up<std::uint32_t>(b, 16));
    b = upper;
}
/// The same for the halves of each 16 bits.
PROACT_ELEMENTWISE void separate_bytes(Bytes& a, Bytes& b) {
    constexpr auto odd = static_cast<__mmask64>(0xaaaaaaaaaaaaaaaa);
    const Bytes upper = _mm512_mask_blend_epi8(odd, shifted_down<std::uint16_t>(a, 8), b);
    a = _mm512_mask_blend_epi8(odd, a, shifted_up<std::uint16_t>(b, 8));
    b = upper;
}

#include "scrub_kernels.inl"
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

FirstInvalid avx512_first_invalid(std::uint32_t codeword_bytes, std::uint32_t syndrome_bytes) {
    switch (codeword_bytes) {
        case 1: return avx512::first_invalid_for<1>(syndrome_bytes);
        case 2: return avx512::first_invalid_for<2>(syndrome_bytes);
        case 4: return avx512::first_invalid_for<4>(syndrome_bytes);
        default: return avx512::first_invalid_for<8>(syndrome_bytes);
    }
}

}  // namespace proact

#endif
