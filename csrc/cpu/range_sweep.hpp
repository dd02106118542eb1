// Sweeps over many tensors that bring values outside their trained range back into it.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

#include "../core/dtype.hpp"
#include "../core/value_range.hpp"
#include "isa.hpp"
#include "relocation.hpp"

namespace proact {

/// Elements in memory and the bounds of their trained values. The caller keeps both alive. Each
/// sweep reads the bounds again, because faults can change them too.
struct BoundedMemory {
    std::uintptr_t address;
    std::uint64_t elements;
    Dtype dtype;
    std::uintptr_t low, high;  // element e uses bounds number e / inner % channels
    Dtype bound_dtype;
    std::uint64_t channels, inner;
};

/// The values that a sweep overwrote, for undoing it.
class RangeLog {
   public:
    /// The values that one thread overwrote, as ranges of adjacent bytes.
    class Part {
       public:
        /// Must be called before the bytes change, so that the log can restore them after any
        /// interruption.
        void save(const void* words, std::size_t bytes);

        /// Later bytes belong to other memory, which can move on its own.
        void begin_memory() { is_new_memory_ = true; }

        void restore() const;
        void relocate(const std::vector<Relocation>& moved);

       private:
        struct SavedBytes {
            std::uintptr_t address;
            std::size_t bytes;
        };
        std::vector<SavedBytes> saved_;
        std::vector<unsigned char> bytes_;
        bool is_new_memory_ = true;
    };

    Part& new_part();
    void restore() const;

    /// Directs `restore` to the memory where the tensors are now: see relocation.hpp.
    void relocate(const std::vector<Relocation>& moved);

   private:
    std::mutex adding_;
    std::list<Part> parts_;
};

class RangePlan {
   public:
    /// Throws std::invalid_argument if channels or inner is 0.
    void add(const BoundedMemory& memory);

    /// Repairs values outside their range and returns the number of repairs per memory. Memory
    /// without such values is not written. The number of threads and the instruction set do not
    /// change the result.
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
