#include "codeword_draws.hpp"

#include <stdexcept>
#include <string>
#include <utility>

#include "../core/error_text.hpp"
#include "chunk_sieve.hpp"
#include "equal_parts.hpp"
#include "threads.hpp"

namespace proact {

/// All chunks of all tensors in plan order.
class CodewordPlan::Schedule {
   public:
    Schedule(const std::vector<CodedTensor>& tensors, double ber) : laws_(ber) {
        if (ber == 0.0) return;
        chunked_.reserve(tensors.size());  // ranges point to the entries
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            if (tensors[i].elements == 0) continue;
            chunked_.emplace_back(static_cast<std::uint32_t>(i), tensors[i], laws_);
            const ChunkedTensor& tensor = chunked_.back();
            parts.add({&tensor, 0, tensor.chunks}, tensor.cost(ber));
            if (tensors[i].corrects == 0)
                likely_kept += 1.05 * ber * static_cast<double>(tensors[i].exposed_bits());
        }
    }
    Schedule(const Schedule&) = delete;

    EqualParts<ChunkRange> parts;
    double likely_kept = 0;  // flips of tensors that keep all of them

   private:
    BlockLaws laws_;
    std::vector<ChunkedTensor> chunked_;
};

void CodedTensor::check() const {
    if (elements > std::uint64_t{1} << 32)
        throw std::invalid_argument("expected at most 2^32 elements, got " +
                                    std::to_string(elements));
    if (word_bits == 0 || word_bits > 191 || (word_bits < 64 && mask >> word_bits != 0))
        throw std::invalid_argument(
            "expected words of 1 to 191 bits and a mask of these bits, got " +
            std::to_string(word_bits) + " bits and the mask " + std::to_string(mask));
    if (words == 0 || words > 64 || (words & (words - 1)) != 0)
        throw std::invalid_argument("expected codewords of 1 to 64 words, a power of two, got " +
                                    std::to_string(words));
    if (singles < elements && singles % words != 0)
        throw std::invalid_argument("expected single words that begin with a codeword, got " +
                                    std::to_string(singles));
    if (mask != 0) unread(elements, stream, mask).check();
    if (check_mask != 0) unread(codewords(), check_stream, check_mask).check();
}

std::uint64_t CodedTensor::exposed_bits() const {
    return elements * bit_count(mask) + codewords() * bit_count(check_mask);
}

void CodewordFlips::reserve(std::size_t size) {
    tensor.reserve(size);
    element.reserve(size);
    bit.reserve(size);
}

void CodewordFlips::append(const CodewordFlips& other) {
    tensor.insert(tensor.end(), other.tensor.begin(), other.tensor.end());
    element.insert(element.end(), other.element.begin(), other.element.end());
    bit.insert(bit.end(), other.bit.begin(), other.bit.end());
    flips += other.flips;
    dropped += other.dropped;
}

void CodewordPlan::add(const CodedTensor& tensor) {
    tensor.check();
    tensors_.push_back(tensor);
    cache_->clear();
}

CodewordFlips CodewordPlan::draw(double ber, FaultPattern pattern, Execution execution) const {
    if (!(ber >= 0.0 && ber <= max_ber))
        throw std::invalid_argument("expected a BER in [0, 1/2], got " + shown(ber));
    const auto schedule =
        cache_->at(ber, [&] { return std::make_shared<const Schedule>(tensors_, ber); });
    const std::size_t parts = schedule->parts.parts(execution.threads);
    std::vector<CodewordFlips> kept(parts);
    const auto likely_kept = static_cast<std::size_t>(schedule->likely_kept) / parts;
    parallel_for(execution.threads, parts, [&](std::size_t part) {
        kept[part].reserve(likely_kept);
        ChunkSieve sieve(pattern, execution.isa, kept[part]);
        schedule->parts.for_each_range(part, parts,
                                       [&](const ChunkRange& range) { sieve.draw(range); });
    });
    for (std::size_t part = 1; part < parts; ++part) kept[0].append(kept[part]);
    return std::move(kept[0]);
}

}  // namespace proact
