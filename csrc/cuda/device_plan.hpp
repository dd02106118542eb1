// A plan of tensors in device memory, the counterpart of csrc/cpu/flips.hpp. The caller allocates
// the memory of a trial, and no function waits for the device.
#pragma once

#include <cstdint>
#include <exception>
#include <vector>

#include "flips.hpp"

namespace proact::cuda {

class DevicePlan {
   public:
    /// Throws std::invalid_argument if the description is inconsistent.
    void add(const TensorMemory& tensor) {
        tensor.check();
        check_format(tensor);
        tensors_.push_back(tensor);
    }

    std::uint64_t exposed_bits() const { return proact::exposed_bits(tensors_); }

    /// The location of a tensor's data in the memory of a trial. Offsets are in bytes from its
    /// start.
    struct Place {
        std::uint64_t counts;
        std::uint64_t log;
        LogLayout layout;
        std::uint32_t word_bytes;
    };

    /// Returns the layout of a trial's memory: the total number of flips (std::uint64_t), the
    /// counts of every tensor and, if the flips are logged, the logs of the tensors.
    std::vector<Place> places(double ber, bool logged) const {
        std::vector<Place> all;
        BlockLaws laws(ber);
        std::uint64_t next = sizeof(std::uint64_t);
        for (const TensorMemory& tensor : tensors_) {
            const LogLayout layout =
                tensor.words == 0 ? LogLayout{} : log_layout(tensor, laws.of(tensor));
            all.push_back({next, 0, layout, tensor.word_bytes});
            next += layout.blocks * sizeof(std::uint32_t);
        }
        for (Place& place : all) {
            place.log = next = aligned(next);
            if (logged) next += place.layout.bytes;
        }
        return all;
    }

    std::uint64_t bytes(double ber, bool logged) const {
        const std::vector<Place> all = places(ber, logged);
        if (all.empty()) return sizeof(std::uint64_t);
        return aligned(all.back().log + (logged ? all.back().layout.bytes : 0));
    }

    /// Returns the size of the prefix with all counts, which the caller must clear before `flip`.
    /// `restore` is then correct even if the flips were interrupted.
    std::uint64_t bytes_to_clear(double ber) const {
        const std::vector<Place> all = places(ber, false);
        return all.empty() ? sizeof(std::uint64_t) : all.front().log;
    }

    /// Flips every exposed bit with probability ber in (0, 1].
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

    /// Writes the old words back, the last tensor first. If one tensor fails, the others are still
    /// restored; the first failure is thrown at the end.
    void restore(double ber, std::uintptr_t memory, Stream stream) const {
        const std::vector<Place> all = places(ber, true);
        BlockLaws laws(ber);
        std::exception_ptr failure;
        for (std::size_t i = tensors_.size(); i-- > 0;) {
            if (tensors_[i].words == 0) continue;
            try {
                cuda::restore(tensors_[i], laws.of(tensors_[i]), memory + all[i].log,
                              memory + all[i].counts, stream);
            } catch (...) {
                if (!failure) failure = std::current_exception();
            }
        }
        if (failure) std::rethrow_exception(failure);
    }

   private:
    static std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 7) / 8 * 8; }

    std::vector<TensorMemory> tensors_;
};

}  // namespace proact::cuda
