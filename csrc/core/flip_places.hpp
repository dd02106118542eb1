// Bits of a plan's tensors that a caller lists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensor_memory.hpp"

namespace proact {

/// Bits of a plan's tensors, as columns of equal length.
struct FlipPlaces {
    const std::uint32_t* tensor;  // plan indices
    const std::uint64_t* element;
    const std::uint8_t* bit;  // bits of the stored words
    std::size_t size;

    /// Throws std::invalid_argument unless all bits lie in the tensors and are ordered by tensor
    /// and element.
    void check(const std::vector<TensorMemory>& tensors) const {
        for (std::size_t i = 0; i < size; ++i) {
            if (tensor[i] >= tensors.size() || element[i] >= tensors[tensor[i]].words ||
                bit[i] >= tensors[tensor[i]].stored_bits())
                throw std::invalid_argument("expected places within the plan, got " + shown(i));
            if (i > 0 && (tensor[i] < tensor[i - 1] ||
                          (tensor[i] == tensor[i - 1] && element[i] < element[i - 1])))
                throw std::invalid_argument("expected places ordered by tensor and element, got " +
                                            shown(i) + " after " + shown(i - 1));
        }
    }

   private:
    std::string shown(std::size_t i) const {
        return "tensor " + std::to_string(tensor[i]) + ", element " + std::to_string(element[i]) +
               ", bit " + std::to_string(bit[i]);
    }
};

}  // namespace proact
