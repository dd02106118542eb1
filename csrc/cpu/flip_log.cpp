#include "flip_log.hpp"

#include <algorithm>

#include "threads.hpp"

namespace proact {
namespace {

template <class Word>
void write_back(const TensorMemory& memory, const std::uint32_t* element, const std::byte* before,
                std::size_t flips) {
    constexpr std::size_t prefetch_distance = 32;  // far enough to hide a cache miss
    auto* words = reinterpret_cast<Word*>(memory.address);
    for (std::size_t i = flips; i-- > 0;) {
        if (i >= prefetch_distance) __builtin_prefetch(words + element[i - prefetch_distance], 1);
        std::memcpy(words + element[i], before + i * sizeof(Word), sizeof(Word));
    }
}

}  // namespace

void FlipColumns::restore() const {
    for (std::size_t i = segments.size(); i-- > 0;) {
        const Segment& segment = segments[i];
        if (segment.memory.is_stored_as<Unread>() || segment.memory.address == 0) continue;
        const std::uint32_t* elements = element.data() + segment.begin;
        const std::size_t flips = segment.end - segment.begin;
        const auto write = [&](auto word) {
            write_back<decltype(word)>(segment.memory, elements, old_words(segment), flips);
        };
        switch (segment.memory.word_bytes) {
            case 1: write(std::uint8_t{}); break;
            case 2: write(std::uint16_t{}); break;
            case 4: write(std::uint32_t{}); break;
            default: write(std::uint64_t{}); break;
        }
    }
}

void FlipColumns::relocate(const std::vector<Relocation>& moved) {
    for (Segment& segment : segments)
        segment.memory.address = relocated(segment.memory.address, moved);
}

std::size_t FlipLog::size() const {
    std::size_t flips = 0;
    for (const auto& call : calls)
        for (const FlipColumns& part : call) flips += part.size();
    return flips;
}

std::vector<std::size_t> FlipLog::tensors() const {
    std::vector<std::size_t> found;
    for (const auto& call : calls)
        for (const FlipColumns& part : call)
            for (const FlipColumns::Segment& segment : part.segments)
                if (segment.end != segment.begin) found.push_back(segment.plan_index);
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
}

void FlipLog::relocate(const std::vector<Relocation>& moved) {
    for (auto& call : calls)
        for (FlipColumns& part : call) part.relocate(moved);
}

void FlipLog::restore(unsigned threads) const {
    for (std::size_t i = calls.size(); i-- > 0;) {
        const std::vector<FlipColumns>& parts = calls[i];
        parallel_for(threads, parts.size(), [&](std::size_t part) { parts[part].restore(); });
    }
}

}  // namespace proact
