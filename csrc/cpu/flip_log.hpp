// A log of flipped bits and of the words as they were before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../core/relocation.hpp"
#include "../core/tensor_memory.hpp"
#include "uninitialized_buffer.hpp"

namespace proact {

/// One flipped bit, with the memory word just before this flip.
struct Flip {
    std::uint32_t element;
    std::uint32_t bit;
    std::uint64_t before;
};

/// The flips of consecutive blocks in the order in which they were made, stored as columns: 5 bytes
/// per flip plus the old word.
class FlipColumns {
   public:
    /// The flips [begin, end) of one tensor. Their old words begin at byte `first_byte`.
    struct Segment {
        std::size_t plan_index;
        TensorMemory memory;
        std::size_t begin;
        std::size_t end;
        std::size_t first_byte;
    };

    std::size_t size() const { return segments.empty() ? 0 : segments.back().end; }

    void begin_segment(std::size_t plan_index, const TensorMemory& memory) {
        const std::size_t bytes = segments.empty() ? 0 : end_byte(segments.back());
        segments.push_back({plan_index, memory, size(), size(), bytes});
    }

    /// Ensures capacity for `flips` more flips after the last segment. Throws std::bad_alloc.
    void reserve(std::size_t flips) {
        const Segment& last = segments.back();
        element.reserve(last.end + flips);
        bit.reserve(last.end + flips);
        before.reserve(end_byte(last) + flips * last.memory.word_bytes);
    }

    /// Flips the bits stored after the end of the last segment and writes the old words beside
    /// them. `commit` then adds them to the segment.
    template <class Words>
    void flip_pending(Words& words, std::uint32_t flips) {
        const Segment& last = segments.back();
        words.flip(element.data() + last.end, bit.data() + last.end, flips,
                   before.data() + end_byte(last));
    }
    void commit(std::uint32_t flips) { segments.back().end += flips; }

    /// Reserves capacity for about `flips` flips of 4-byte words, to avoid reallocation.
    void reserve_total(std::size_t flips) {
        element.reserve(flips);
        bit.reserve(flips);
        before.reserve(4 * flips);
    }

    Flip flip(const Segment& segment, std::size_t i) const {
        std::uint64_t word = 0;  // little-endian, as on every machine that torch supports
        std::memcpy(&word, old_words(segment) + (i - segment.begin) * segment.memory.word_bytes,
                    segment.memory.word_bytes);
        return {element.data()[i], bit.data()[i], word};
    }

    const std::byte* old_words(const Segment& segment) const {
        return before.data() + segment.first_byte;
    }

    /// Writes the old words back, last flip first.
    void restore() const;

    /// Directs `restore` to the memory where the tensors are now: see relocation.hpp.
    void relocate(const std::vector<Relocation>& moved);

    UninitializedBuffer<std::uint32_t> element;
    UninitializedBuffer<std::uint8_t> bit;
    std::vector<Segment> segments;

   private:
    static std::size_t end_byte(const Segment& segment) {
        return segment.first_byte + (segment.end - segment.begin) * segment.memory.word_bytes;
    }

    UninitializedBuffer<std::byte> before;
};

/// The flips of one or more calls.
class FlipLog {
   public:
    std::size_t size() const;

    /// The plan indices of the tensors with flips, in ascending order.
    std::vector<std::size_t> tensors() const;

    /// Writes the old words back, last flip first, so that a word that was flipped twice gets its
    /// oldest value. No other memory is touched. The number of threads does not change the result.
    void restore(unsigned threads = 1) const;

    /// Directs `restore` to the memory where the tensors are now: see relocation.hpp.
    void relocate(const std::vector<Relocation>& moved);

    /// Calls `visit(plan_index, flip)` in the order in which the flips were made.
    template <class Visit>
    void for_each(Visit visit) const {
        for (const auto& call : calls)
            for (const FlipColumns& part : call)
                for (const FlipColumns::Segment& segment : part.segments)
                    for (std::size_t i = segment.begin; i < segment.end; ++i)
                        visit(segment.plan_index, part.flip(segment, i));
    }

    /// Each part was made by one thread. The parts of one call share no word.
    std::vector<std::vector<FlipColumns>> calls;
};

}  // namespace proact
