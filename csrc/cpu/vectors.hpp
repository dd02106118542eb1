// SIMD vectors through the compilers' vector extension. One vector corresponds to one register, and
// the arithmetic in csrc/core accepts vectors as well as scalars.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../core/half.hpp"
#include "../core/simd_traits.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace proact {

template <class Number, std::size_t bytes>
struct VectorOf {
    typedef Number Type __attribute__((vector_size(bytes)));
};
template <class Number, std::size_t bytes>
using Vector = typename VectorOf<Number, bytes>::Type;

template <class Real_, class Number, class SignedNumber, std::size_t bytes>
struct VectorLanes {
    using Real = Real_;
    using Value = Vector<Real, bytes>;
    using Bits = Vector<Number, bytes>;
    using Mask = Vector<SignedNumber, bytes>;  // comparisons give all ones or all zeros

    PROACT_ELEMENTWISE static Value all(Real value) { return Value{} + value; }
    PROACT_ELEMENTWISE static Bits all_bits(Number bits) { return Bits{} + bits; }
    PROACT_ELEMENTWISE static Value maximum(Value a, Value b) { return a > b ? a : b; }
    PROACT_ELEMENTWISE static Value minimum(Value a, Value b) { return a < b ? a : b; }
    PROACT_ELEMENTWISE static Value where(Mask condition, Value value) {
        return reinterpret_cast<Value>(reinterpret_cast<Mask>(value) & condition);
    }
    PROACT_ELEMENTWISE static Bits choose(Mask condition, Bits yes, Bits no) {
        return condition ? yes : no;
    }
    PROACT_ELEMENTWISE static Bits bits(Value value) { return reinterpret_cast<Bits>(value); }
    PROACT_ELEMENTWISE static Value from_bits(Bits bits) { return reinterpret_cast<Value>(bits); }
};

template <std::size_t bytes>
using FloatLanes = VectorLanes<float, std::uint32_t, std::int32_t, bytes>;
template <std::size_t bytes>
using DoubleLanes = VectorLanes<double, std::uint64_t, std::int64_t, bytes>;

template <>
struct SimdTraits<Vector<float, 16>> : FloatLanes<16> {};
template <>
struct SimdTraits<Vector<float, 32>> : FloatLanes<32> {};
template <>
struct SimdTraits<Vector<float, 64>> : FloatLanes<64> {};
template <>
struct SimdTraits<Vector<double, 16>> : DoubleLanes<16> {};
template <>
struct SimdTraits<Vector<double, 32>> : DoubleLanes<32> {};
template <>
struct SimdTraits<Vector<double, 64>> : DoubleLanes<64> {};

template <class Whole>
PROACT_ELEMENTWISE Whole load(const void* memory) {
    Whole whole;
    std::memcpy(&whole, memory, sizeof whole);
    return whole;
}

template <class Whole>
PROACT_ELEMENTWISE void store(void* memory, Whole whole) {
    std::memcpy(memory, &whole, sizeof whole);
}

/// The vector type in which elements are computed, with the conversions from and to memory.
template <class Element, std::size_t bytes>
struct VectorMemory {
    using Value = Vector<Element, bytes>;
    PROACT_ELEMENTWISE static Value read(const Element* memory) { return load<Value>(memory); }
    PROACT_ELEMENTWISE static void write(Element* memory, Value value) { store(memory, value); }
};

template <class Half, std::size_t bytes>
struct HalfVectorMemory {
    using Value = Vector<float, bytes>;
    using Bits = typename SimdTraits<Value>::Bits;
    using Words = Vector<std::uint16_t, bytes / 2>;

    PROACT_ELEMENTWISE static Value read(const Half* memory) {
        return Half::template widened<Value>(__builtin_convertvector(load<Words>(memory), Bits));
    }
    PROACT_ELEMENTWISE static void write(Half* memory, Value value) {
        store(memory, __builtin_convertvector(Half::narrowed(value), Words));
    }
};

template <std::size_t bytes>
struct VectorMemory<Float16, bytes> : HalfVectorMemory<Float16, bytes> {};
template <std::size_t bytes>
struct VectorMemory<BFloat16, bytes> : HalfVectorMemory<BFloat16, bytes> {};

#if defined(__x86_64__)
/// Uses the conversion instructions, which every machine with AVX2 has.
template <>
struct VectorMemory<Float16, 32> {
    using Value = Vector<float, 32>;
    [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] static inline Value read(
        const Float16* memory) {
        return reinterpret_cast<Value>(_mm256_cvtph_ps(load<__m128i>(memory)));
    }
    [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] static inline void write(Float16* memory,
                                                                                  Value value) {
        store(memory, _mm256_cvtps_ph(reinterpret_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT));
    }
};

/// As above, for AVX-512.
template <>
struct VectorMemory<Float16, 64> {
    using Value = Vector<float, 64>;
    [[gnu::target("avx512f"), gnu::always_inline]] static inline Value read(const Float16* memory) {
        return reinterpret_cast<Value>(_mm512_cvtph_ps(load<__m256i>(memory)));
    }
    [[gnu::target("avx512f"), gnu::always_inline]] static inline void write(Float16* memory,
                                                                            Value value) {
        store(memory, _mm512_cvtps_ph(reinterpret_cast<__m512>(value), _MM_FROUND_TO_NEAREST_INT));
    }
};

/// Uses intrinsics, because the compilers' own word conversions need more shuffles.
template <>
struct VectorMemory<BFloat16, 32> : HalfVectorMemory<BFloat16, 32> {
    [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] static inline Value read(
        const BFloat16* memory) {
        const __m256i words = _mm256_cvtepu16_epi32(load<__m128i>(memory));
        return reinterpret_cast<Value>(_mm256_slli_epi32(words, 16));
    }
    [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] static inline void write(BFloat16* memory,
                                                                                  Value value) {
        const auto words = reinterpret_cast<__m256i>(BFloat16::narrowed(value));
        store(memory,
              _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
};
#endif

template <class Mask>
PROACT_ELEMENTWISE bool any(Mask mask) {
    std::uint64_t lanes[sizeof mask / 8], found = 0;
    store(lanes, mask);
    for (const std::uint64_t lane : lanes) found |= lane;
    return found != 0;
}

}  // namespace proact
