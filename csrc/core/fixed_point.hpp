// Fixed point qM.N: 1 sign bit, M integer bits and N fraction bits in two's complement, saturating.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.hpp"

namespace proact {

struct FixedPoint {
    std::uint32_t word_bits;  // 1 + M + N, at most 32
    std::uint32_t fraction_bits;

    /// Returns the nearest stored word (ties to even). NaN becomes 0.
    template <class Real>
    PROACT_HOST_DEVICE std::uint32_t encode(Real value) const {
        const double limit = power_of_two(word_bits - 1);
        // Scaling by a power of two is exact, so rint is the only rounding.
        double scaled = std::rint(static_cast<double>(value) * power_of_two(fraction_bits));
        if (!(scaled >= -limit)) scaled = scaled < -limit ? -limit : 0.0;
        if (scaled > limit - 1.0) scaled = limit - 1.0;
        return static_cast<std::uint32_t>(static_cast<std::int64_t>(scaled)) & word_mask();
    }

    /// Returns the value of a stored word, rounded to nearest if Real has too few digits.
    template <class Real>
    PROACT_HOST_DEVICE Real decode(std::uint32_t word) const {
        const std::uint32_t sign = std::uint32_t{1} << (word_bits - 1);
        const auto value = static_cast<std::int64_t>((word & word_mask()) ^ sign) -
                           static_cast<std::int64_t>(sign);
        return static_cast<Real>(static_cast<double>(value) / power_of_two(fraction_bits));
    }

    PROACT_HOST_DEVICE std::uint32_t word_mask() const {
        return word_bits == 32 ? ~std::uint32_t{0} : (std::uint32_t{1} << word_bits) - 1;
    }

   private:
    PROACT_HOST_DEVICE static double power_of_two(std::uint32_t exponent) {
        return static_cast<double>(std::uint64_t{1} << exponent);
    }
};

}  // namespace proact
