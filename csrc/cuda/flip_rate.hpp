// What a plan of tensors in device memory needs at one bit error rate: the block law of each tensor
// and the layout of a trial's memory. Kernels read the laws from device memory; they are uploaded
// once and serve all trials at that rate.
#pragma once

#include <cstdint>
#include <map>
#include <type_traits>
#include <vector>

#include "../core/tensor_memory.hpp"

namespace proact::cuda {

/// A thread restores this many slots of a block if the law is inverted: then a block has thousands.
constexpr std::uint32_t slots_per_share = 64;
/// A thread visits this many words of a block if the law is inverted.
constexpr std::uint32_t words_per_share = 64;

/// The block law of one tensor, and where its log lies in a trial's memory: three arrays of shape
/// [blocks][slots] and the number of flips of each block. The flips of a block fill its first slots
/// in the order in which they are made. Offsets are in bytes.
struct DeviceLaw {
    std::uint64_t first_thread;    // threads of earlier tensors in the kernels that flip
    std::uint64_t first_restorer;  // threads of earlier tensors in the kernel that restores
    std::uint64_t blocks;
    std::uint64_t slots;  // the largest number of flips in one block
    std::uint64_t counts, before, element, bit;
    std::uint64_t survival, guide;  // offsets of the binomial table from the first law
    std::uint32_t table_size;
    std::uint32_t words_log2;
    std::uint32_t shares;          // threads for each block in the kernels that flip
    std::uint32_t restore_shares;  // threads for each block in the kernel that restores
};
static_assert(std::is_trivially_copyable_v<DeviceLaw>, "it is uploaded as bytes");

class FlipRate {
   public:
    /// Throws std::invalid_argument for a rate outside (0, 1].
    FlipRate(const std::vector<TensorMemory>& tensors, double ber);

    bool is_inverted() const { return is_inverted_; }
    /// The number of flips of a trial, which the host finds without the device: it draws positions
    /// only in blocks that reach beyond their tensor. `tensors` begin with those of the
    /// constructor.
    std::uint64_t flips(const std::vector<TensorMemory>& tensors,
                        const FaultPattern& pattern) const;
    /// The numbers of the tensors that a trial flips, found in the same way. The host stops at the
    /// first block with flips of each tensor.
    std::vector<std::uint32_t> hit(const std::vector<TensorMemory>& tensors,
                                   const FaultPattern& pattern) const;
    const std::vector<DeviceLaw>& laws() const { return laws_; }
    std::uint32_t tensors() const { return static_cast<std::uint32_t>(laws_.size()); }
    /// The laws of all tensors, followed by their binomial tables; aligned to 8 bytes.
    const std::vector<std::uint64_t>& tables() const { return tables_; }
    std::uint64_t threads() const { return threads_; }
    std::uint64_t restorers() const { return restorers_; }
    /// The size of a trial's memory.
    std::uint64_t bytes(bool is_logged) const { return is_logged ? logged_bytes_ : counted_bytes_; }
    /// The size of the prefix with all counts, which must be cleared before the flips. Restoring is
    /// then correct even if the flips were not made.
    std::uint64_t bytes_to_clear() const { return counted_bytes_; }

   private:
    /// What a trial draws for one tensor.
    struct HostDraws {
        BlockLaw law;
        FaultStream fault;
        std::uint64_t tensor_words;

        /// The number of flips in a block, without those that lie beyond the tensor.
        std::uint64_t flips_in_block(std::uint64_t block) const;
    };

    HostDraws draws_of(const TensorMemory& tensor, const DeviceLaw& law,
                       const FaultPattern& pattern) const;
    BinomialView table(const DeviceLaw& law) const;

    bool is_inverted_;
    std::vector<DeviceLaw> laws_;
    std::vector<std::uint64_t> tables_;
    std::uint64_t threads_ = 0, restorers_ = 0;
    std::uint64_t counted_bytes_ = 0, logged_bytes_ = 0;
};

}  // namespace proact::cuda
