// A batch of bits that are flipped together.
#pragma once

#include <cstdint>

#include "flip_log.hpp"

namespace proact {

/// All flips of one word must be in the same batch: see EncodedWords.
class FlipBatch {
   public:
    explicit FlipBatch(FlipColumns& log) : log_(log) {}

    void add(std::uint64_t element, std::uint8_t bit) {
        log_.reserve(flips_ + 1);
        const FlipColumns::Segment& segment = log_.segments.back();
        log_.element.data()[segment.end + flips_] = static_cast<std::uint32_t>(element);
        log_.bit.data()[segment.end + flips_++] = bit;
    }

    template <class Words>
    void flip(Words& words) {
        log_.flip_pending(words, flips_);
        log_.commit(flips_);
        flips_ = 0;
    }

    std::uint32_t size() const { return flips_; }

   private:
    FlipColumns& log_;
    std::uint32_t flips_ = 0;
};

}  // namespace proact
