// What sweeps over tensors compare and replace: the bounds of trained values, in host or device
// memory.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "dtype.hpp"
#include "value_range.hpp"

namespace proact {

/// Elements in memory and the bounds of their trained values. The caller keeps both alive. Each
/// sweep reads the bounds again, because faults can change them too.
struct BoundedMemory {
    std::uintptr_t address;
    std::uint64_t elements;
    Dtype dtype;
    std::uintptr_t low, high;  // element e uses bounds number e / inner % channels
    Dtype bound_dtype;
    std::uint64_t channels, inner;
};

/// The number in place of a word whose error is detected and not corrected: the value nearest to 0
/// between two bounds. Word w of a tensor has the bounds number w / inner % channels. Each sweep
/// reads the bounds again, because faults can change them too.
struct Replacement {
    std::uintptr_t low = 0, high = 0;  // 0: the words become 0
    Dtype bound_dtype = Dtype::float32, dtype = Dtype::float32;
    std::uint64_t channels = 1, inner = 1;
};

/// Throws std::invalid_argument if channels or inner is 0.
inline void check_channels(std::uint64_t channels, std::uint64_t inner) {
    if (channels == 0 || inner == 0)
        throw std::invalid_argument("bounds expect at least 1 channel and inner element, got " +
                                    std::to_string(channels) + " channels and " +
                                    std::to_string(inner) + " inner elements");
}

/// Throws std::invalid_argument if a codeword does not consist of whole words.
inline void check_words(std::uint32_t codeword_bytes, std::uint32_t word_bytes) {
    if (word_bytes == 0 || codeword_bytes % word_bytes != 0)
        throw std::invalid_argument("expected words that divide a codeword of " +
                                    std::to_string(codeword_bytes) + " bytes, got words of " +
                                    std::to_string(word_bytes) + " bytes");
}

/// Bound number `index` in the type in which elements are computed.
template <class Real>
PROACT_HOST_DEVICE Real bound_at(std::uintptr_t address, Dtype dtype, std::uint64_t index) {
    Real bound = 0;
    with_element(dtype, [&](auto* type) {
        using Bound = std::remove_pointer_t<decltype(type)>;
        bound = static_cast<Real>(
            Arithmetic<Bound>::load(reinterpret_cast<const Bound*>(address)[index]));
    });
    return bound;
}

/// The memory word in place of those of a channel.
PROACT_HOST_DEVICE inline std::uint64_t replacement_word(const Replacement& replacement,
                                                         std::uint64_t channel) {
    if (replacement.low == 0) return 0;
    std::uint64_t bits = 0;
    with_element(replacement.dtype, [&](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        using Real = typename Arithmetic<Element>::Real;
        const auto range =
            ValueRange<Real>::of(bound_at<Real>(replacement.low, replacement.bound_dtype, channel),
                                 bound_at<Real>(replacement.high, replacement.bound_dtype, channel),
                                 largest_element<Element>, RangeAction::zero);
        bits = Arithmetic<Element>::bits(Arithmetic<Element>::store(range.neutral));
    });
    return bits;
}

}  // namespace proact
