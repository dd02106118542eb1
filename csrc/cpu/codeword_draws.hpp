// Draws the bit flips of coded tensors without access to their memory, and drops the codewords
// whose flips their code corrects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "execution.hpp"
#include "flips.hpp"
#include "schedule_cache.hpp"

namespace proact {

/// The words of one tensor and their codewords. Codeword c consists of the elements
/// [c * words, (c + 1) * words) and a check word; the last codeword may have fewer elements.
struct CodedTensor {
    std::uint64_t elements;
    std::uint64_t stream;
    std::uint64_t mask;       // exposed bits of a word; 0 if none are exposed
    std::uint32_t word_bits;  // the bits of the check word follow those of the first word
    std::uint32_t words;      // words in a codeword: a power of two
    std::uint32_t corrects;   // codewords with at most this many flips are dropped
    std::uint64_t check_stream;
    std::uint64_t check_mask;  // exposed bits of a check word; 0 if none are exposed
    std::uint64_t singles;     // a multiple of `words`; flips from this element on are kept

    std::uint64_t codewords() const { return (elements + words - 1) / words; }
    std::uint64_t exposed_bits() const;

    /// Throws std::invalid_argument if the description is inconsistent.
    void check() const;
};

/// The flips that are left, as columns ordered by tensor, codeword, element and bit, and the
/// numbers of all flips and of all dropped codewords.
struct CodewordFlips {
    std::vector<std::uint32_t> tensor;  // plan indices
    std::vector<std::uint64_t> element;
    std::vector<std::uint8_t> bit;
    std::uint64_t flips = 0;
    std::uint64_t dropped = 0;

    /// Reserves memory for this number of flips that are left.
    void reserve(std::size_t size);
    void append(const CodewordFlips& other);
};

class CodewordPlan {
   public:
    /// The largest BER of `draw`.
    static constexpr double max_ber = 0.5;

    /// Throws std::invalid_argument if the description is inconsistent.
    void add(const CodedTensor& tensor);

    /// Draws the flips that FaultPlan makes in tensors of the same size, stream and mask.
    CodewordFlips draw(double ber, FaultPattern pattern, Execution execution = {}) const;

   private:
    class Schedule;

    std::vector<CodedTensor> tensors_;
    std::unique_ptr<ScheduleCache<Schedule>> cache_ = std::make_unique<ScheduleCache<Schedule>>();
};

}  // namespace proact
