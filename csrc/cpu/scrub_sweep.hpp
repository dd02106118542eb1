// Sweeps over many tensors of codewords that correct errors in place.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../core/swept_memory.hpp"
#include "scrub_code.hpp"
#include "sweep_log.hpp"

namespace proact {

/// Adjacent codewords of a tensor. The caller keeps the memory and the bounds alive.
struct CodedMemory {
    std::uintptr_t address;
    std::uint64_t codewords;
    std::shared_ptr<const ScrubCode> code;
    std::uint32_t word_bytes;
    std::uint64_t first_word;  // the number in the tensor of the first word
    Replacement replacement;
};

/// Numbers of codewords.
struct ScrubCounts {
    std::uint64_t corrected = 0, detected = 0;

    ScrubCounts& operator+=(const ScrubCounts& other) {
        corrected += other.corrected;
        detected += other.detected;
        return *this;
    }
};

class ScrubPlan {
   public:
    /// Throws std::invalid_argument if there is no code, if a codeword does not consist of whole
    /// words, or if channels or inner is 0.
    void add(const CodedMemory& memory);

    /// Corrects each invalid codeword, or replaces it if the error is only detected (a code that
    /// masks clears bits instead), and returns the counts of each memory. Memory of valid codewords
    /// is not written. Without a log the changes are permanent. The number of threads and the
    /// instruction set do not change the result.
    std::vector<ScrubCounts> scrub(SweepLog* log, Isa isa, unsigned threads) const;

   private:
    struct Chunk {
        std::size_t memory;
        std::uint64_t begin, end;
    };
    std::vector<CodedMemory> memories_;
    std::vector<Chunk> chunks_;
    std::uint64_t bytes_ = 0;
};

}  // namespace proact
