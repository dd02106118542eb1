#pragma once

#include <cstdint>

#include "../core/host_device.hpp"

namespace proact::cuda {

/// dividend / divisor. GPUs divide in software, and 64-bit numbers take several times the
/// instructions of 32-bit ones.
PROACT_ELEMENTWISE std::uint64_t quotient(std::uint64_t dividend, std::uint64_t divisor) {
    if (((dividend | divisor) >> 32) == 0)
        return static_cast<std::uint32_t>(dividend) / static_cast<std::uint32_t>(divisor);
    return dividend / divisor;
}

}  // namespace proact::cuda
