#include "sweep_log.hpp"

#include <cstring>

namespace proact {

void SweepLog::Part::save(const void* words, std::size_t bytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(words);
    if (is_new_memory_ || saved_.back().address + saved_.back().bytes != address)
        saved_.push_back({address, 0});
    is_new_memory_ = false;
    const auto* first = static_cast<const unsigned char*>(words);
    bytes_.insert(bytes_.end(), first, first + bytes);
    saved_.back().bytes += bytes;
}

void SweepLog::Part::restore() const {
    const unsigned char* words = bytes_.data();
    for (const SavedBytes& saved : saved_) {
        if (saved.address != 0)
            std::memcpy(reinterpret_cast<void*>(saved.address), words, saved.bytes);
        words += saved.bytes;
    }
}

void SweepLog::Part::relocate(const std::vector<Relocation>& moved) {
    for (SavedBytes& saved : saved_) saved.address = relocated(saved.address, moved);
}

SweepLog::Part& SweepLog::new_part() {
    const std::lock_guard<std::mutex> lock(adding_);
    return parts_.emplace_back();
}

void SweepLog::relocate(const std::vector<Relocation>& moved) {
    for (Part& part : parts_) part.relocate(moved);
}

void SweepLog::restore() const {
    for (const Part& part : parts_) part.restore();
}

}  // namespace proact
