// A plan of tensors in device memory, the counterpart of csrc/cpu/flips.hpp. The caller uploads the
// descriptions of the tensors and the tables of a rate, allocates the memory of each trial and
// keeps all of it alive until the device is done. No function waits for the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "../core/flip_places.hpp"
#include "../core/relocation.hpp"
#include "flips.hpp"

namespace proact::cuda {

class DevicePlan {
   public:
    /// Throws std::invalid_argument for an inconsistent description, or a tensor that shares memory
    /// with another one of the plan: the order of flips in shared words would be undefined.
    void add(const TensorMemory& tensor) {
        tensor.check();
        if (tensor.words != 0 && (tensor.address == 0 || tensor.address % tensor.word_bytes != 0))
            throw std::invalid_argument(
                "expected the address of a tensor to be a positive "
                "multiple of its word size, got " +
                std::to_string(tensor.address));
        for (const TensorMemory& other : tensors_)
            if (tensor.words != 0 && other.words != 0 && tensor.address < end_of(other) &&
                other.address < end_of(tensor))
                throw std::invalid_argument(
                    "tensors of one plan in device memory must not share memory");
        described_.push_back(device_tensor(tensor));
        tensors_.push_back(tensor);
    }

    std::uint64_t exposed_bits() const { return proact::exposed_bits(tensors_); }
    std::uint32_t size() const { return static_cast<std::uint32_t>(tensors_.size()); }

    /// The descriptions of the tensors, to be uploaded.
    const std::vector<DeviceTensor>& described() const { return described_; }

    /// The same with each tensor where it is now, or at 0 if its memory is gone.
    std::vector<DeviceTensor> described_after(const std::vector<Relocation>& moved) const {
        std::vector<DeviceTensor> all = described_;
        for (DeviceTensor& tensor : all) tensor.address = relocated(tensor.address, moved);
        return all;
    }

    std::uint32_t word_bytes(std::size_t tensor) const { return tensors_[tensor].word_bytes; }

    /// The laws of the plan's tensors at a rate in (0, 1].
    FlipRate rate(double ber) const { return {tensors_, ber}; }

    /// Throws std::invalid_argument unless a kernel can flip these places.
    void check(const FlipPlaces& places) const { places.check(tensors_); }

    std::uint64_t flips(const FlipRate& rate, const FaultPattern& pattern) const {
        return rate.flips(tensors_, pattern);
    }
    std::vector<std::uint32_t> hit(const FlipRate& rate, const FaultPattern& pattern) const {
        return rate.hit(tensors_, pattern);
    }

   private:
    static std::uintptr_t end_of(const TensorMemory& tensor) {
        return tensor.address + tensor.words * tensor.word_bytes;
    }

    std::vector<TensorMemory> tensors_;
    std::vector<DeviceTensor> described_;
};

}  // namespace proact::cuda
