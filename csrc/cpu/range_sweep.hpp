// Sweeps over many tensors that bring values outside their trained range back into it.
#pragma once

#include <cstdint>
#include <vector>

#include "../core/swept_memory.hpp"
#include "isa.hpp"
#include "sweep_log.hpp"

namespace proact {

class RangePlan {
   public:
    /// Throws std::invalid_argument if channels or inner is 0.
    void add(const BoundedMemory& memory);

    /// Repairs values outside their range and returns the number of repairs per memory. Memory
    /// without such values is not written. The number of threads and the instruction set do not
    /// change the result.
    std::vector<std::uint64_t> sweep_into(SweepLog& log, RangeAction action, Isa isa,
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
