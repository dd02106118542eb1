// The words that a sweep over memory overwrote.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

#include "../core/relocation.hpp"

namespace proact {

/// The values that a sweep overwrote, for undoing it.
class SweepLog {
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

}  // namespace proact
