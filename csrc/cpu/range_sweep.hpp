// Sweeps over many tensors that put values outside their trained range back into it.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

#include "../core/dtype.hpp"
#include "../core/value_range.hpp"
#include "isa.hpp"

namespace proact {

/// Numbers in memory and the bounds of their trained values. The caller keeps both alive; bounds
/// are read anew in each sweep, as they are stored in memory that fails, too.
struct BoundedMemory {
    std::uintptr_t address;
    std::uint64_t elements;
    Dtype dtype;
    std::uintptr_t low, high;  // element e has bounds number e / inner % channels
    Dtype bound_dtype;
    std::uint64_t channels, inner;
};

/// What a sweep wrote over, to be put back.
class RangeLog {
   public:
    /// What one thread wrote over, in stretches of neighbours.
    class Part {
       public:
        /// Before they are changed: whatever ends the sweep, the log puts everything back.
        void save(const void* words, std::size_t bytes);
        void restore() const;

       private:
        struct SavedBytes {
            std::uintptr_t address;
            std::size_t bytes;
        };
        std::vector<SavedBytes> saved_;
        std::vector<unsigned char> bytes_;
    };

    Part& new_part();
    void restore() const;

   private:
    std::mutex adding_;
    std::list<Part> parts_;
};

class RangePlan {
   public:
    /// Throws std::invalid_argument for no channel or no inner.
    void add(const BoundedMemory& memory);

    /// Repairs what lies outside; the number of repaired elements of each memory. Where nothing
    /// does, nothing is written. The number of threads and the instruction set change no bit.
    std::vector<std::uint64_t> sweep_into(RangeLog& log, RangeAction action, Isa isa,
                                          unsigned threads) const;

   private:
    struct Chunk {
        std::size_t memory;
        std::uint64_t begin, end;
    };
    std::vector<BoundedMemory> memories_;
    std::vector<Chunk> chunks_;
    std::uint64_t elements_ = 0;
};

}  // namespace proact
