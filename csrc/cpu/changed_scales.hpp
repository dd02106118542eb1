// Reads numbers again whose scales or zero points were flipped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "../core/scaled.hpp"
#include "../core/tensor_memory.hpp"
#include "flip_log.hpp"

namespace proact {

/// How the word of a stored scale or zero point is read.
struct ScaleWord {
    enum class Kind { small_float, power_of_two, float32, integer };
    Kind kind;
    SmallFloat format{};  // of small floats

    double value(std::uint32_t word) const;
};

/// Stored words from which scales or zero points are made. `layout.address` is not used.
struct ScalePart {
    std::uintptr_t address;
    std::uint32_t word_bytes;  // 1, 2 or 4
    ScaleWord word;
    Scales layout;
    bool is_zero_point;

    /// The value that is stored now for an element of the tensor.
    double at(std::uint64_t element) const;
};

/// A tensor of scaled numbers. The scale of an element is the product of `unit` and of what its
/// parts store. The caller keeps all memory alive.
struct ScaledTensor {
    TensorMemory memory;   // of float or double
    Scales clean;          // the scales without faults
    std::uintptr_t zeros;  // an int32 for each clean scale, or 0 if all zero points are 0
    double unit;
    bool has_negative_zero;  // whether the words of elements tell -0.0 from 0.0
    std::vector<ScalePart> parts;
};

class ChangedScales {
   public:
    /// Throws std::invalid_argument if the description is inconsistent.
    void add(const ScaledTensor& tensor);

    /// Reads the numbers again whose scales or zero points have flips in `flips`, and logs their
    /// old words. A word x in memory means x / scale + zero, exactly. Cost is in proportion to the
    /// numbers.
    void reread_into(FlipLog& log, const FlipLog& flips) const;

   private:
    std::vector<ScaledTensor> tensors_;
    std::map<std::uintptr_t, std::pair<std::size_t, std::size_t>> parts_;  // by address
};

}  // namespace proact
