// A plan of tensors in device memory: what csrc/cpu/flips.hpp does in host memory, in memory that
// the caller allocates and without ever waiting for the device.
#pragma once

#include <cstdint>
#include <vector>

#include "flips.hpp"

namespace proact::cuda {

class DevicePlan {
   public:
    /// Throws std::invalid_argument where the description makes no sense.
    void add(const TensorMemory& tensor) {
        tensor.check();
        tensors_.push_back(tensor);
    }

    std::uint64_t exposed_bits() const {
        std::uint64_t bits = 0;
        for (const TensorMemory& tensor : tensors_)
            bits += tensor.words * tensor.exposed_bits_per_word();
        return bits;
    }

    /// Where a tensor's numbers lie in a trial's memory, in bytes from its beginning.
    struct Place {
        std::uint64_t counts;
        std::uint64_t log;
        LogLayout layout;
        std::uint32_t word_bytes;
    };

    /// A trial's memory: the number of all flips (std::uint64_t), then each tensor's counts and,
    /// where the flips are logged, its log.
    std::vector<Place> places(double ber, bool logged) const {
        std::vector<Place> all;
        BlockLaws laws(ber);
        std::uint64_t next = sizeof(std::uint64_t);
        for (const TensorMemory& tensor : tensors_) {
            if (tensor.words == 0) {
                all.push_back({next, next, {}, tensor.word_bytes});
                continue;
            }
            const LogLayout layout = log_layout(tensor, laws.of(tensor));
            const std::uint64_t log = aligned(next + layout.blocks * sizeof(std::uint32_t));
            all.push_back({next, log, layout, tensor.word_bytes});
            next = logged ? aligned(log + layout.bytes) : log;
        }
        return all;
    }

    std::uint64_t bytes(double ber, bool logged) const {
        const std::vector<Place> all = places(ber, logged);
        if (all.empty()) return sizeof(std::uint64_t);
        return aligned(all.back().log + (logged ? all.back().layout.bytes : 0));
    }

    /// Flips every exposed bit with probability ber in (0, 1]. The memory's first word, the number
    /// of flips so far, is the caller's to clear.
    void flip(double ber, std::uint64_t seed, std::uint32_t trial, std::uintptr_t memory,
              bool logged, Stream stream) const {
        const std::vector<Place> all = places(ber, logged);
        BlockLaws laws(ber);
        for (std::size_t i = 0; i < tensors_.size(); ++i) {
            const TensorMemory& tensor = tensors_[i];
            if (tensor.words == 0) continue;
            const std::uintptr_t counts = memory + all[i].counts;
            cuda::flip(tensor, laws.of(tensor), {seed, trial, tensor.stream},
                       logged ? memory + all[i].log : 0, counts, stream);
            add_counts(counts, all[i].layout.blocks, memory, stream);
        }
    }

    /// Writes the old words back, the last tensor first.
    void restore(double ber, std::uintptr_t memory, Stream stream) const {
        const std::vector<Place> all = places(ber, true);
        BlockLaws laws(ber);
        for (std::size_t i = tensors_.size(); i-- > 0;)
            if (tensors_[i].words != 0)
                cuda::restore(tensors_[i], laws.of(tensors_[i]), memory + all[i].log,
                              memory + all[i].counts, stream);
    }

   private:
    static std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 7) / 8 * 8; }

    std::vector<TensorMemory> tensors_;
};

}  // namespace proact::cuda
