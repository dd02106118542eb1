// Draws the flips of a coded tensor chunk by chunk and keeps those of codewords with too many
// flips.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "codeword_draws.hpp"
#include "flip_words.hpp"
#include "uninitialized_buffer.hpp"

namespace proact {

inline std::uint32_t log2_of(std::uint32_t power) {
    std::uint32_t log2 = 0;
    while (power >> log2 > 1) ++log2;
    return log2;
}

inline TensorMemory unread(std::uint64_t words, std::uint64_t stream, std::uint64_t mask) {
    return {0, words, 1, stream, mask, Unread{64}};
}

/// One stream of the sampler: the words or the check words of a tensor.
struct DrawnStream {
    TensorMemory memory;
    BlockLaw law;
    ExposedBits exposed;
    std::uint32_t element_log2;  // a word of the stream counts as element word << element_log2
    std::uint32_t first_bit;     // and its bits follow this bit
    std::uint32_t blocks_log2;   // a chunk has 2^blocks_log2 blocks

    DrawnStream(const TensorMemory& stream, BlockLaws& laws, std::uint32_t log2, std::uint32_t bit)
        : memory(stream),
          law(laws.of(stream)),
          exposed(stream.mask),
          element_log2(log2),
          first_bit(bit),
          blocks_log2(0) {}
};

/// A tensor in chunks: each has 2^k elements, and whole blocks of each stream.
struct ChunkedTensor {
    std::uint32_t plan_index;
    std::uint32_t words_log2;  // elements in a codeword
    std::uint32_t corrects;
    std::uint64_t singles;
    std::uint32_t chunk_log2;  // elements in a chunk
    std::uint64_t chunks;
    std::vector<DrawnStream> streams;  // at most 2

    ChunkedTensor(std::uint32_t index, const CodedTensor& tensor, BlockLaws& laws)
        : plan_index(index),
          words_log2(log2_of(tensor.words)),
          corrects(tensor.corrects),
          singles(tensor.singles),
          chunk_log2(words_log2) {
        if (tensor.mask != 0)
            streams.emplace_back(unread(tensor.elements, tensor.stream, tensor.mask), laws, 0, 0);
        if (tensor.check_mask != 0)
            streams.emplace_back(unread(tensor.codewords(), tensor.check_stream, tensor.check_mask),
                                 laws, words_log2, tensor.word_bits);
        for (const DrawnStream& stream : streams)
            chunk_log2 = std::max(chunk_log2, stream.element_log2 + stream.law.words_log2);
        for (DrawnStream& stream : streams)
            stream.blocks_log2 = chunk_log2 - stream.element_log2 - stream.law.words_log2;
        const std::uint64_t chunk = std::uint64_t{1} << chunk_log2;
        chunks = streams.empty() ? 0 : (tensor.elements + chunk - 1) >> chunk_log2;
    }

    /// The cost of a chunk in units of one flip. A block has a fixed overhead of a few flips.
    double cost(double ber) const {
        constexpr double block_overhead = 8;
        double sum = 0;
        for (const DrawnStream& stream : streams)
            sum += static_cast<double>(std::uint64_t{1} << stream.blocks_log2) *
                   (block_overhead + ber * stream.law.bits());
        return sum;
    }
};

/// Consecutive chunks of one tensor.
struct ChunkRange {
    const ChunkedTensor* tensor;
    std::uint64_t begin;
    std::uint64_t end;
};

/// An approximate count of the flips in each codeword of a chunk. A codeword whose cell has one
/// flip has one flip; a codeword that shares its cell may have fewer flips than its cell.
class HitFilter {
   public:
    /// Forgets all flips.
    void start() {
        mark_ = static_cast<std::uint16_t>(mark_ + 2);
        if (mark_ == 0) {
            cells_.fill(0);
            mark_ = 2;
        }
    }

    /// Counts a flip and returns whether its cell had one before.
    bool add(std::uint32_t codeword) {
        std::uint16_t& cell = cells_[codeword % size];
        const bool hit_before = (cell | 1) == (mark_ | 1);
        cell = static_cast<std::uint16_t>(mark_ | hit_before);
        return hit_before;
    }

    /// Whether the cell of a codeword has several flips.
    bool is_shared(std::uint32_t codeword) const { return cells_[codeword % size] == (mark_ | 1); }

   private:
    static constexpr std::uint32_t size = 8192;
    std::array<std::uint16_t, size> cells_{};
    std::uint16_t mark_ = 0;
};

/// Draws chunks one after the other and keeps the flips of codewords with more than `corrects`.
class ChunkSieve {
   public:
    ChunkSieve(FaultPattern pattern, Isa isa, CodewordFlips& kept)
        : pattern_(pattern), batch_(batch_functions(isa)), kept_(kept) {}

    void draw(const ChunkRange& range) {
        const std::vector<DrawnStream>& streams = range.tensor->streams;
        std::optional<BlockDrawer> drawers[2];
        for (std::size_t i = 0; i < streams.size(); ++i)
            drawers[i].emplace(streams[i].law,
                               FaultStream{pattern_.seed, pattern_.trial, streams[i].memory.stream},
                               batch_, seen_);
        for (std::uint64_t chunk = range.begin; chunk < range.end; ++chunk) {
            flips_ = 0;
            for (std::size_t i = 0; i < streams.size(); ++i)
                draw_stream(streams[i], *drawers[i], chunk);
            kept_.flips += flips_;
            sift(*range.tensor, (chunk + 1) << range.tensor->chunk_log2);
        }
    }

   private:
    void draw_stream(const DrawnStream& stream, BlockDrawer& drawer, std::uint64_t chunk) {
        const std::uint64_t blocks = stream.law.blocks(stream.memory.words);
        const std::uint64_t end = std::min(blocks, (chunk + 1) << stream.blocks_log2);
        for (std::uint64_t block = chunk << stream.blocks_log2; block < end; ++block) {
            elements_.reserve(flips_ + BlockDrawer::max_positions);
            bits_.reserve(flips_ + BlockDrawer::max_positions);
            std::uint32_t* const element = elements_.data() + flips_;
            std::uint8_t* const bit = bits_.data() + flips_;
            const std::uint64_t first_word = block << stream.law.words_log2;
            std::uint32_t drawn =
                drawer.draw(static_cast<std::uint32_t>(block), [](std::uint32_t) {});
            stream.exposed.split(drawer.positions(), drawn, static_cast<std::uint32_t>(first_word),
                                 element, bit);
            if (stream.memory.words - first_word < stream.law.words())
                drawn = drop_words_beyond_end(stream.memory.words, element, bit, drawn);
            if (stream.first_bit != 0)
                for (std::uint32_t i = 0; i < drawn; ++i) {
                    element[i] <<= stream.element_log2;
                    bit[i] = static_cast<std::uint8_t>(bit[i] + stream.first_bit);
                }
            flips_ += drawn;
        }
    }

    /// Sorts the flips of codewords that may have several, or that are kept in any case. All other
    /// flips are the only ones of their codewords.
    void sift(const ChunkedTensor& tensor, std::uint64_t end) {
        const std::uint32_t* const element = elements_.data();
        const bool drops = tensor.corrects != 0, all_are_coded = end <= tensor.singles;
        if (drops) {
            filter_.start();
            std::size_t repeats = 0;
            for (std::size_t i = 0; i < flips_; ++i)
                repeats += filter_.add(element[i] >> tensor.words_log2);
            if (repeats == 0 && all_are_coded) {
                kept_.dropped += flips_;
                return;
            }
        }
        keys_.reserve(flips_ + 1);  // one more is written below
        std::uint64_t* const keys = keys_.data();
        std::size_t left = 0;
        for (std::size_t i = 0; i < flips_; ++i) {
            keys[left] = std::uint64_t{element[i]} << 8 | bits_.data()[i];
            left += !drops || filter_.is_shared(element[i] >> tensor.words_log2) ||
                    element[i] >= tensor.singles;
        }
        kept_.dropped += flips_ - left;
        sort(tensor.chunk_log2, left);
        const std::uint32_t codeword_shift = 8 + tensor.words_log2;
        for (std::size_t i = 0; i < left;) {
            std::size_t next = i + 1;
            while (next < left && keys[next] >> codeword_shift == keys[i] >> codeword_shift) ++next;
            if (next - i > tensor.corrects || keys[i] >> 8 >= tensor.singles)
                for (std::size_t j = i; j < next; ++j) keep(tensor.plan_index, keys[j]);
            else
                ++kept_.dropped;
            i = next;
        }
    }

    /// Sorts the first n keys of a chunk. Flips are spread evenly over a chunk, so keys that are
    /// ordered by a range of elements are nearly sorted.
    void sort(std::uint32_t chunk_log2, std::size_t n) {
        std::uint64_t* const keys = keys_.data();
        constexpr std::size_t few = 8;
        if (n > few) {
            std::uint32_t log2 = 0;
            while (log2 < max_ranges_log2 && log2 < chunk_log2 && n >> log2 > 1) ++log2;
            const std::size_t ranges = std::size_t{1} << log2;
            const auto range = [shift = 8 + chunk_log2 - log2, ranges](std::uint64_t key) {
                return key >> shift & (ranges - 1);
            };
            std::fill_n(range_ends_.begin(), ranges + 1, 0u);
            for (std::size_t i = 0; i < n; ++i) ++range_ends_[range(keys[i]) + 1];
            for (std::size_t i = 1; i < ranges; ++i) range_ends_[i] += range_ends_[i - 1];
            unsorted_.reserve(n);
            std::copy_n(keys, n, unsorted_.data());
            for (std::size_t i = 0; i < n; ++i) {
                const std::uint64_t key = unsorted_.data()[i];
                keys[range_ends_[range(key)]++] = key;
            }
        }
        for (std::size_t i = 1; i < n; ++i) {
            const std::uint64_t key = keys[i];
            std::size_t place = i;
            for (; place > 0 && keys[place - 1] > key; --place) keys[place] = keys[place - 1];
            keys[place] = key;
        }
    }

    void keep(std::uint32_t plan_index, std::uint64_t key) {
        kept_.tensor.push_back(plan_index);
        kept_.element.push_back(key >> 8);
        kept_.bit.push_back(static_cast<std::uint8_t>(key));
    }

    FaultPattern pattern_;
    BatchFunctions batch_;
    CodewordFlips& kept_;
    SeenFilter seen_;
    HitFilter filter_;
    // The flips of the chunk, and those that are sorted.
    UninitializedBuffer<std::uint32_t> elements_;
    UninitializedBuffer<std::uint8_t> bits_;
    UninitializedBuffer<std::uint64_t> keys_, unsorted_;
    static constexpr std::uint32_t max_ranges_log2 = 12;
    std::array<std::uint32_t, (1 << max_ranges_log2) + 1> range_ends_;
    std::size_t flips_ = 0;
};

}  // namespace proact
