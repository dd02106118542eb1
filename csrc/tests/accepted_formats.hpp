// Says whether a tensor with a number format is accepted.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "../core/tensor_memory.hpp"

namespace proact::test {

inline bool is_accepted(const NumberFormat& format, std::uint32_t word_bytes,
                        std::uint64_t mask = 1) {
    try {
        TensorMemory{0, 100, word_bytes, 1, mask, format}.check();
        return true;
    } catch (const std::invalid_argument&) {
        return false;
    }
}

}  // namespace proact::test
