#pragma once

#include <cstdint>

#include "../core/host_device.hpp"

namespace proact::cuda {

/// Returns dividend / divisor. GPUs divide in software, and a 64-bit division takes several times
/// the instructions of a 32-bit one.
PROACT_ELEMENTWISE std::uint64_t quotient(std::uint64_t dividend, std::uint64_t divisor) {
    if (((dividend | divisor) >> 32) == 0)
        return static_cast<std::uint32_t>(dividend) / static_cast<std::uint32_t>(divisor);
    return dividend / divisor;
}

}  // namespace proact::cuda
