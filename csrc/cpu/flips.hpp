// Bit flips in host memory: a plan of tensors prepared once, one call a trial, and the old words of
// everything flipped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../core/fault_block.hpp"
#include "../core/fixed_point.hpp"

namespace proact {

/// One tensor's memory as faults see it. The caller keeps the memory alive.
struct TensorMemory {
    std::uintptr_t address;
    std::uint64_t words;       // elements
    std::uint32_t word_bytes;  // 1, 2, 4 or 8
    std::uint64_t stream;
    std::uint64_t mask;  // the exposed bits of a stored word
    /// word_bits > 0: memory holds floats whose stored form is fixed point. A flip encodes the
    /// float, flips the stored word and decodes it.
    FixedPoint fixed;

    bool is_fixed_point() const { return fixed.word_bits != 0; }
};

/// One flipped bit, with the memory word as it was just before this flip.
class Flip {
   public:
    Flip(std::uint64_t element, std::uint32_t bit, std::uint64_t before)
        : element_and_bit_(element << 6 | bit), before_(before) {}

    std::uint64_t element() const { return element_and_bit_ >> 6; }
    std::uint32_t bit() const { return static_cast<std::uint32_t>(element_and_bit_ & 63); }
    std::uint64_t before() const { return before_; }

   private:
    std::uint64_t element_and_bit_;
    std::uint64_t before_;
};

/// The flips of one trial in the order in which they were made.
class FlipLog {
   public:
    struct Segment {
        std::size_t plan_index;
        TensorMemory memory;
        std::size_t end;  // one past its last flip; it begins where the previous one ends
    };

    /// Writes the old words back, last flip first, so that a word flipped twice gets its oldest
    /// value. Other memory is not touched.
    void restore() const;

    std::vector<Flip> flips;
    std::vector<Segment> segments;
};

class FaultPlan {
   public:
    /// Throws std::invalid_argument where the description makes no sense.
    void add(const TensorMemory& tensor);

    std::uint64_t exposed_bits() const;

    /// Flips every exposed bit with probability ber in [0, 1] and adds what it did to `log`, each
    /// flip before it is made: whatever interrupts, the log can restore.
    void flip_into(FlipLog& log, double ber, std::uint64_t seed, std::uint32_t trial) const;

    FlipLog flip(double ber, std::uint64_t seed, std::uint32_t trial) const;

    /// The same flips without a log; returns their number.
    std::uint64_t flip_unlogged(double ber, std::uint64_t seed, std::uint32_t trial) const;

   private:
    std::vector<TensorMemory> tensors_;
};

}  // namespace proact
