// A batched version of draw_block in core/fault_block.hpp. It draws the same positions in the same
// order.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "../core/fault_block.hpp"
#include "philox_batch.hpp"

namespace proact {

/// An approximate set of the numbers seen in the current round: it has false positives but no false
/// negatives. Starting a round is cheap, because cells marked in earlier rounds carry another mark.
class SeenFilter {
   public:
    class Round {
       public:
        Round(std::uint16_t* cells, std::uint16_t mark) : cells_(cells), mark_(mark) {}

        bool maybe_seen(std::uint32_t number) {
            std::uint16_t& cell = cells_[number % size];
            const bool seen = cell == mark_;
            cell = mark_;
            return seen;
        }

       private:
        std::uint16_t* cells_;
        std::uint16_t mark_;
    };

    Round start() {
        if (++mark_ == 0) {
            cells_.fill(0);
            mark_ = 1;
        }
        return {cells_.data(), mark_};
    }

   private:
    static constexpr std::uint32_t size = 4096;
    std::array<std::uint16_t, size> cells_{};
    std::uint16_t mark_ = 0;
};

class BlockDrawer {
   public:
    /// Number of entries that can be read from positions().
    static constexpr std::uint32_t max_positions = 5 * batch_words - 2;

    /// The filter must outlive the drawer. Other code may use it between draws.
    BlockDrawer(const BlockLaw& law, const FaultStream& fault, BatchFunctions batch,
                SeenFilter& seen, std::uint32_t first_draw = 0)
        : law_(law),
          fault_(fault),
          batch_(batch),
          seen_(seen),
          first_draw_(first_draw),
          uniform_(law.bits()) {}

    /// The positions from the last draw(), followed by further positions of the block, up to
    /// max_positions in total.
    const std::uint32_t* positions() const { return positions_.data() + count_words; }

    /// Draws a block and returns the number of positions, at most BinomialTable::max_count. Calls
    /// `on_position(position)` for nearly all of them, inside a loop that runs anyway: a second
    /// loop of unpredictable length would cost as much as several positions.
    template <class OnPosition>
    std::uint32_t draw(std::uint32_t block, OnPosition on_position) {
        counter_ = block_counter(fault_, block, first_draw_);
        generated_words_ = 0;
        append_words();
        const std::uint64_t u = words_[0] | std::uint64_t{words_[1]} << 32;
        const std::uint32_t wanted = law_.drawn.count(u);
        while (generated_words_ < count_words + wanted) append_words();

        // Assume that no word is rejected and no position is drawn twice, which nearly always
        // holds.
        bool needs_redraw = false;
        for (std::uint32_t i = 0; i < generated_words_; i += batch_words)
            needs_redraw |=
                batch_.scale(&words_[i], uniform_.range, uniform_.rejected, &positions_[i]);
        SeenFilter::Round seen = seen_.start();
        for (std::uint32_t i = count_words; i < count_words + wanted; ++i) {
            needs_redraw |= seen.maybe_seen(positions_[i]);
            on_position(positions_[i]);
        }
        if (needs_redraw) draw_one_by_one(wanted);
        return wanted;
    }

   private:
    static constexpr std::uint32_t count_words = 2;  // the binomial count uses two words

    void append_words() {
        if (generated_words_ == words_.size()) generated_words_ = 0;  // all of them have been used
        batch_.philox(counter_, fault_key(fault_), words_.data() + generated_words_);
        counter_.word[0] += batch_counters;
        generated_words_ += batch_words;
    }

    void draw_one_by_one(std::uint32_t wanted) {
        std::uint32_t* positions = positions_.data() + count_words;
        std::uint32_t next = count_words, drawn = 0;
        SeenFilter::Round seen = seen_.start();
        while (drawn < wanted) {
            if (next == generated_words_) {
                if (next == words_.size()) next = 0;
                append_words();
            }
            const std::uint64_t product = uniform_.product(words_[next++]);
            if (uniform_.rejects(product)) continue;
            const auto position = static_cast<std::uint32_t>(product >> 32);
            if (seen.maybe_seen(position) &&
                std::find(positions, positions + drawn, position) != positions + drawn)
                continue;
            positions[drawn++] = position;
        }
    }

    BlockLaw law_;
    FaultStream fault_;
    BatchFunctions batch_;
    SeenFilter& seen_;
    std::uint32_t first_draw_;
    UniformBelow uniform_;
    PhiloxCounter counter_{};
    std::uint32_t generated_words_ = 0;
    // Room for the count and the largest number of draws, in whole batches.
    std::array<std::uint32_t, max_positions + count_words> words_, positions_;
};

static_assert(BinomialTable::max_count <= BlockDrawer::max_positions);

}  // namespace proact
