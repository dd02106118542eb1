// How memory stands for stored words. Memory holds numbers that a network computes with; a fault
// hits the word that the device under study would have stored for such a number.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <variant>

#include "fixed_point.hpp"
#include "half.hpp"

namespace proact {

/// Memory holds the stored words themselves.
struct MemoryWords {};

/// Memory is neither read nor written: flips are drawn, and somebody else makes them.
struct Unread {
    std::uint32_t word_bits;
};

/// A signed integer in two's complement that stands for itself times a scale.
struct ScaledInteger {
    float scale;
    std::uint32_t word_bits;

    /// The nearest word, ties to even, saturating; NaN becomes 0.
    template <class Real>
    std::uint32_t encode(Real value) const {
        const double limit = static_cast<double>(sign());
        double integer = std::rint(static_cast<double>(value) / static_cast<double>(scale));
        if (!(integer >= -limit)) integer = integer < -limit ? -limit : 0.0;
        if (integer > limit - 1.0) integer = limit - 1.0;
        return static_cast<std::uint32_t>(static_cast<std::int64_t>(integer)) & (2 * sign() - 1);
    }

    template <class Real>
    Real decode(std::uint32_t word) const {
        const auto integer = static_cast<std::int64_t>(word ^ sign()) - std::int64_t{sign()};
        return static_cast<Real>(static_cast<double>(integer) * static_cast<double>(scale));
    }

   private:
    std::uint32_t sign() const { return std::uint32_t{1} << (word_bits - 1); }
};

/// Such integers with a scale a channel: element e has scale number e / inner % channels.
struct ScaledIntegers {
    std::uint32_t word_bits;  // 2 to 16
    std::uintptr_t scales;    // of `channels` floats, which the caller keeps alive
    std::uint64_t channels;
    std::uint64_t inner;

    ScaledInteger at(std::uint64_t element) const {
        return {reinterpret_cast<const float*>(scales)[element / inner % channels], word_bits};
    }
};

/// A float that is stored as a half: rounded to nearest, ties to even.
template <class Half>
struct StoredHalf {
    std::uint32_t encode(float value) const { return Half::narrowed(value); }
    template <class Real>
    float decode(std::uint32_t word) const {
        static_assert(sizeof(Real) == sizeof(float));
        return Half::template widened<float>(word);
    }
};

/// A double that is stored as a float.
struct StoredFloat {
    std::uint32_t encode(double value) const {
        const auto narrow = static_cast<float>(value);
        std::uint32_t word;
        std::memcpy(&word, &narrow, sizeof word);
        return word;
    }
    template <class Real>
    double decode(std::uint32_t word) const {
        static_assert(sizeof(Real) == sizeof(double));
        float narrow;
        std::memcpy(&narrow, &word, sizeof narrow);
        return narrow;
    }
};

using StoredForm = std::variant<MemoryWords, FixedPoint, ScaledIntegers, StoredHalf<Float16>,
                                StoredHalf<BFloat16>, StoredFloat, Unread>;

}  // namespace proact
