// Bit flips in host memory. A plan of tensors is prepared once; each trial is one call, which logs
// the old words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "../core/flip_places.hpp"
#include "../core/tensor_memory.hpp"
#include "execution.hpp"
#include "flip_log.hpp"
#include "schedule_cache.hpp"

namespace proact {

class FaultPlan {
   public:
    /// Throws std::invalid_argument if the description is inconsistent.
    void add(const TensorMemory& tensor);

    std::uint64_t exposed_bits() const;

    /// Whether repeating a call undoes its flips, provided that encoded tensors hold values that
    /// their words decode to. False if tensors overlap or if a float has fewer digits than the
    /// fixed-point word that it represents.
    bool replay_undoes() const;

    /// Flips every exposed bit with probability ber in [0, 1] and appends the flips to `log`. Log
    /// memory is reserved before the flips are made, so an exception leaves no flip unlogged.
    void flip_into(FlipLog& log, double ber, FaultPattern pattern, Execution execution = {}) const;

    FlipLog flip(double ber, FaultPattern pattern, Execution execution = {}) const;

    /// Makes the same flips without a log and returns their number.
    std::uint64_t flip_unlogged(double ber, FaultPattern pattern, Execution execution = {}) const;

    /// Flips exactly `flips` distinct exposed bits of the plan. Every such set is equally likely if
    /// the tensors have different streams. Throws std::invalid_argument if `flips` exceeds the
    /// number of exposed bits.
    void flip_exactly_into(FlipLog& log, std::uint64_t flips, FaultPattern pattern) const;

    /// Flips the given bits, which must be distinct and ordered by tensor and then by element. The
    /// masks of the plan do not apply. Throws std::invalid_argument before any flip if a bit lies
    /// outside the plan.
    void flip_places_into(FlipLog& log, const FlipPlaces& places) const;

    /// Takes back the memory of a log that is no longer needed, for reuse by the next log: memory
    /// that the system must clear first costs more than the flips that it holds.
    void recycle(FlipLog& log) const;

   private:
    class BlockSchedule;

    /// State that one trial keeps for the next: log memory and the schedule of the last BER.
    struct TrialCache {
        std::mutex lock;
        std::vector<FlipColumns> spare;
        std::size_t parts = 0;  // of the last call; `flips` are the flips expected in each part
        std::size_t flips = 0;
        ScheduleCache<BlockSchedule> schedule;

        /// False for memory that only a much higher BER needed.
        bool is_worth_keeping(const FlipColumns& columns) const {
            return columns.element.capacity() <= 4 * (flips + 4096);
        }
    };

    std::shared_ptr<const BlockSchedule> schedule_at(double ber) const;
    std::vector<FlipColumns> reusable_columns(std::size_t parts, std::size_t flips) const;

    std::vector<TensorMemory> tensors_;
    std::map<std::uintptr_t, std::uintptr_t> extents_;
    bool overlapping_ = false;
    std::unique_ptr<TrialCache> cache_ = std::make_unique<TrialCache>();  // makes the plan movable
};

}  // namespace proact
