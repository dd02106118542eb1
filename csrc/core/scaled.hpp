// Integers and small floats with scales that several elements share.
#pragma once

#include <cmath>
#include <cstdint>

#include "small_float.hpp"

namespace proact {

/// The scales of a tensor. Element e has number e / row * stride + e % row / block: rows of `row`
/// elements are divided into blocks of `block` elements, and the numbers of the blocks of a row
/// begin at a multiple of `stride` (0 if all rows have the same scales).
struct Scales {
    std::uintptr_t address;  // of `count` floats, which the caller keeps alive
    std::uint64_t count;
    std::uint64_t row;
    std::uint64_t block;
    std::uint64_t stride;

    PROACT_HOST_DEVICE std::uint64_t number(std::uint64_t element) const {
        return element / row * stride + element % row / block;
    }
    PROACT_HOST_DEVICE float at(std::uint64_t element) const {
        return reinterpret_cast<const float*>(address)[number(element)];
    }
    /// The end of the adjacent elements that share the scale of an element; it can lie beyond the
    /// tensor.
    std::uint64_t run_end(std::uint64_t element) const {
        const std::uint64_t within = element % row, left = block - within % block;
        return element + (left < row - within ? left : row - within);
    }
    /// Whether each element of a tensor of `words` elements has a scale.
    bool cover(std::uint64_t words) const {
        if (count == 0 || row == 0 || block == 0) return false;
        if (words == 0) return true;
        const std::uint64_t longest = words < row ? words : row;
        return (words - 1) / row * stride + (longest - 1) / block < count;
    }
};

/// An integer that represents (integer - zero) * scale, in two's complement or without a sign.
struct ScaledInteger {
    float scale;
    std::uint32_t word_bits;
    bool is_signed = true;
    std::int32_t zero = 0;

    /// Returns the nearest word (ties to even), saturating. NaN becomes the word of 0.
    template <class Real>
    PROACT_HOST_DEVICE std::uint32_t encode(Real value) const {
        const std::int64_t words = std::int64_t{1} << word_bits;
        const std::int64_t lowest = is_signed ? -words / 2 : 0;
        double integer = std::rint(static_cast<double>(value) / static_cast<double>(scale));
        if (std::isnan(integer)) integer = 0.0;
        integer += static_cast<double>(zero);
        const auto low = static_cast<double>(lowest),
                   high = static_cast<double>(lowest + words - 1);
        if (integer < low) integer = low;
        if (integer > high) integer = high;
        return static_cast<std::uint32_t>(static_cast<std::int64_t>(integer) & (words - 1));
    }

    template <class Real>
    PROACT_HOST_DEVICE Real decode(std::uint32_t word) const {
        std::int64_t integer = word;
        const std::int64_t words = std::int64_t{1} << word_bits;
        if (is_signed && integer >= words / 2) integer -= words;
        return static_cast<Real>(static_cast<double>(integer - zero) * static_cast<double>(scale));
    }
};

/// Scaled integers, each with the scale of its block.
struct ScaledIntegers {
    std::uint32_t word_bits;  // 2 to 16
    Scales scales;
    bool is_signed = true;
    std::uintptr_t zeros = 0;  // address of an int32 for each scale, or 0 if all zeros are 0

    PROACT_HOST_DEVICE ScaledInteger at(std::uint64_t element) const {
        const std::int32_t zero =
            zeros == 0 ? 0 : reinterpret_cast<const std::int32_t*>(zeros)[scales.number(element)];
        return {scales.at(element), word_bits, is_signed, zero};
    }
};

/// A small float that represents its value times a scale.
struct ScaledFloat {
    SmallFloat element;
    float scale;

    template <class Real>
    PROACT_HOST_DEVICE std::uint32_t encode(Real value) const {
        if (!std::isfinite(value)) return element.encode(value);
        return element.encode(static_cast<double>(value) / static_cast<double>(scale));
    }

    /// NaN keeps its payload, which a multiplication would change.
    template <class Real>
    PROACT_HOST_DEVICE Real decode(std::uint32_t word) const {
        const auto plain = element.decode<double>(word);
        if (!std::isfinite(plain)) return element.decode<Real>(word);
        return static_cast<Real>(plain * static_cast<double>(scale));
    }
};

/// Small floats, each with the scale of its block.
struct ScaledFloats {
    SmallFloat element;
    Scales scales;

    PROACT_HOST_DEVICE ScaledFloat at(std::uint64_t number) const {
        return {element, scales.at(number)};
    }
};

}  // namespace proact
