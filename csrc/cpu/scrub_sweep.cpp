#include "scrub_sweep.hpp"

#include <algorithm>
#include <stdexcept>

#include "codeword_memory.hpp"
#include "threads.hpp"

namespace proact {
namespace {

/// With fewer bytes, waking a sleeping thread costs more than it saves.
constexpr std::uint64_t min_parallel_bytes = std::uint64_t{1} << 19;
constexpr std::uint64_t max_chunk_bytes = std::uint64_t{1} << 17;

/// The valid codeword that consists of replacements. `first` is the number of its first word.
std::uint64_t replacement_codeword(const CodedMemory& memory, const CodeTables& code,
                                   std::uint64_t first) {
    std::uint64_t packed = 0;
    const Replacement& replacement = memory.replacement;
    for (std::uint32_t byte = 0; byte < code.codeword_bytes; byte += memory.word_bytes, ++first) {
        const std::uint64_t channel = first / replacement.inner % replacement.channels;
        packed |= replacement_word(replacement, channel) << (8 * byte);
    }
    return code.encoded(packed);
}

template <class Codeword>
ScrubCounts scrub_chunk(const CodedMemory& memory, std::uint64_t begin, std::uint64_t end, Isa isa,
                        SweepLog::Part* log) {
    const CodeTables code = memory.code->tables();
    const std::uint64_t words = code.codeword_bytes / memory.word_bytes;
    auto* x = reinterpret_cast<unsigned char*>(memory.address);
    ScrubCounts counts;
    std::uint64_t i = begin;
    while ((i += memory.code->first_invalid(x + i * sizeof(Codeword), end - i, isa)) < end)
        for (const std::uint64_t stop = std::min(end, i + scrub_window); i < stop; ++i) {
            unsigned char* at = x + i * sizeof(Codeword);
            const std::uint64_t word = load_codeword<Codeword>(at);
            const std::uint32_t syndrome = code.syndrome(word);
            if (syndrome == 0) continue;
            const bool is_detected = code.is_detected[syndrome] != 0;
            counts += is_detected ? ScrubCounts{0, 1} : ScrubCounts{1, 0};
            if (log != nullptr) log->save(at, sizeof(Codeword));
            store_codeword<Codeword>(
                at, is_detected && !code.masks
                        ? replacement_codeword(memory, code, memory.first_word + i * words)
                        : code.corrected(word, syndrome));
        }
    return counts;
}

}  // namespace

void ScrubPlan::add(const CodedMemory& memory) {
    if (memory.code == nullptr) throw std::invalid_argument("expected a code, got none");
    const std::uint32_t codeword_bytes = memory.code->tables().codeword_bytes;
    check_words(codeword_bytes, memory.word_bytes);
    check_channels(memory.replacement.channels, memory.replacement.inner);
    const std::uint64_t step = max_chunk_bytes / codeword_bytes;
    for (std::uint64_t begin = 0; begin < memory.codewords; begin += step)
        chunks_.push_back({memories_.size(), begin, std::min(memory.codewords, begin + step)});
    memories_.push_back(memory);
    bytes_ += memory.codewords * codeword_bytes;
}

std::vector<ScrubCounts> ScrubPlan::scrub(SweepLog* log, Isa isa, unsigned threads) const {
    std::vector<ScrubCounts> chunk_counts(chunks_.size()), counts(memories_.size());
    const auto share = [&](std::size_t begin, std::size_t end) {
        SweepLog::Part* part = log == nullptr ? nullptr : &log->new_part();
        for (std::size_t p = begin; p < end; ++p) {
            const Chunk& chunk = chunks_[p];
            const CodedMemory& memory = memories_[chunk.memory];
            if (part != nullptr) part->begin_memory();
            with_codeword(memory.code->tables().codeword_bytes, [&](auto* type) {
                using Codeword = std::remove_pointer_t<decltype(type)>;
                chunk_counts[p] = scrub_chunk<Codeword>(memory, chunk.begin, chunk.end, isa, part);
            });
        }
    };
    parallel_shares(bytes_ < min_parallel_bytes ? 1 : threads, chunks_.size(), share);
    for (std::size_t p = 0; p < chunks_.size(); ++p) counts[chunks_[p].memory] += chunk_counts[p];
    return counts;
}

}  // namespace proact
