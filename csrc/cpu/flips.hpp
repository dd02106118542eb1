// Bit flips in host memory: a plan of tensors prepared once, one call a trial, and the old words of
// everything flipped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "../core/tensor_memory.hpp"
#include "execution.hpp"
#include "flip_log.hpp"

namespace proact {

/// Names one fault pattern: the same flips for any number of threads and any instruction set.
struct FaultPattern {
    std::uint64_t seed;
    std::uint32_t trial;
};

/// Bits of a plan's tensors as columns of equal length.
struct FlipPlaces {
    const std::uint32_t* tensor;  // in the order of the plan
    const std::uint64_t* element;
    const std::uint8_t* bit;  // of the stored word
    std::size_t size;
};

class FaultPlan {
   public:
    /// Throws std::invalid_argument where the description makes no sense.
    void add(const TensorMemory& tensor);

    std::uint64_t exposed_bits() const;

    /// Whether the same call made again undoes the flips, given that encoded tensors hold what
    /// their words decode to. Not so where tensors overlap, or where a float has fewer digits than
    /// the fixed-point word that it stands for.
    bool replay_undoes() const;

    /// Flips every exposed bit with probability ber in [0, 1] and adds what it did to `log`, each
    /// flip before it is made: whatever interrupts, the log can restore.
    void flip_into(FlipLog& log, double ber, FaultPattern pattern, Execution execution = {}) const;

    FlipLog flip(double ber, FaultPattern pattern, Execution execution = {}) const;

    /// The same flips without a log; returns their number.
    std::uint64_t flip_unlogged(double ber, FaultPattern pattern, Execution execution = {}) const;

    /// Flips exactly `flips` distinct exposed bits of the plan; every such set is equally likely,
    /// given that its tensors have different streams. Throws std::invalid_argument for more than
    /// there are.
    void flip_exactly_into(FlipLog& log, std::uint64_t flips, FaultPattern pattern) const;

    /// Flips the given bits, which are distinct and ordered by tensor and, within a tensor, by
    /// element; the plan's masks do not matter. Throws std::invalid_argument, before anything
    /// flips, for a place outside the plan.
    void flip_places_into(FlipLog& log, const FlipPlaces& places) const;

    /// Takes the memory of a log that is no longer needed, for the next one: memory that the
    /// system has to clear first costs more than the flips that it holds.
    void recycle(FlipLog& log) const;

   private:
    class BlockSchedule;

    /// What one trial leaves for the next: memory of logs, and the last BER's tables.
    struct TrialCache {
        std::mutex lock;
        std::vector<FlipColumns> spare;
        std::size_t parts = 0;  // of the last call, and its likely flips in each
        std::size_t flips = 0;
        double ber = 0;
        std::shared_ptr<const BlockSchedule> schedule;

        /// Not what a much higher BER once needed.
        bool is_worth_keeping(const FlipColumns& columns) const {
            return columns.element.capacity() <= 4 * (flips + 4096);
        }
    };

    std::shared_ptr<const BlockSchedule> schedule_at(double ber) const;
    std::vector<FlipColumns> reusable_columns(std::size_t parts, std::size_t flips) const;

    std::vector<TensorMemory> tensors_;
    std::map<std::uintptr_t, std::uintptr_t> extents_;
    bool overlapping_ = false;
    std::unique_ptr<TrialCache> cache_ =
        std::make_unique<TrialCache>();  // so that a plan can be moved
};

}  // namespace proact
