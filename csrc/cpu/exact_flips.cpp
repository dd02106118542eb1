// Flips exactly n bits.
//
// Every bit is drawn with a probability p for which n drawn bits are very likely, as at a bit error
// rate of p. Every drawn bit gets a random priority, and the n bits of lowest priority are chosen.
// By symmetry, every set of n bits is equally likely. If fewer than n bits were drawn, a further
// attempt uses other random numbers, which preserves the symmetry.
//
// Two models that share most of their tensors share most of their flips. Drawing n numbers below
// the total number of bits would not have this property. p is a power of two, so models of similar
// size use the same p. If the larger model needs another p, all of its flips differ.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "flip_batch.hpp"
#include "flip_words.hpp"
#include "flips.hpp"

namespace proact {
namespace {

/// Number of counters for the draws of an attempt. The second half is for the priorities.
constexpr std::uint32_t draws_per_attempt = 1024;
constexpr std::uint32_t attempts = 64;

struct Candidate {
    std::uint64_t priority;
    std::uint32_t tensor;
    std::uint32_t block;
    std::uint32_t element;
    std::uint32_t rank;  // rank among the exposed bits of the word
};

/// Returns all bits drawn in one attempt, in plan order and then drawing order.
std::vector<Candidate> draw_candidates(const std::vector<TensorMemory>& tensors, double probability,
                                       FaultPattern pattern, std::uint32_t attempt) {
    std::vector<Candidate> candidates;
    BlockLaws laws(probability);
    SeenFilter seen;
    const std::uint32_t first_draw = attempt * draws_per_attempt;
    for (std::uint32_t tensor = 0; tensor < tensors.size(); ++tensor) {
        const TensorMemory& memory = tensors[tensor];
        if (memory.words == 0) continue;
        const BlockLaw law = laws.of(memory);
        const FaultStream fault{pattern.seed, pattern.trial, memory.stream};
        BlockDrawer drawer(law, fault, batch_functions(chosen_isa()), seen, first_draw);
        for (std::uint64_t b = 0; b < law.blocks(memory.words); ++b) {
            const auto block = static_cast<std::uint32_t>(b);
            const std::uint32_t drawn = drawer.draw(block, [](std::uint32_t) {});
            const std::uint32_t* positions = drawer.positions();
            BlockRandomWords priorities(fault, block, first_draw + draws_per_attempt / 2);
            for (std::uint32_t i = 0; i < drawn; ++i) {
                const std::uint64_t priority = priorities.next64();
                const std::uint64_t element =
                    (b << law.words_log2) + positions[i] / law.bits_per_word;
                if (element < memory.words)
                    candidates.push_back({priority, tensor, block,
                                          static_cast<std::uint32_t>(element),
                                          positions[i] % law.bits_per_word});
            }
        }
    }
    return candidates;
}

/// Keeps the n candidates of lowest priority. Of equal priorities, the first drawn are kept.
void keep_lowest(std::vector<Candidate>& candidates, std::size_t n) {
    std::vector<std::uint64_t> priorities;
    for (const Candidate& candidate : candidates) priorities.push_back(candidate.priority);
    const auto nth = priorities.begin() + static_cast<std::ptrdiff_t>(n);
    std::nth_element(priorities.begin(), nth, priorities.end());
    const std::uint64_t limit = *nth;
    auto equal_ones = static_cast<std::size_t>(
        n - static_cast<std::size_t>(std::count_if(priorities.begin(), nth,
                                                   [&](std::uint64_t p) { return p < limit; })));
    candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                    [&](const Candidate& candidate) {
                                        if (candidate.priority != limit)
                                            return candidate.priority > limit;
                                        return equal_ones == 0 || equal_ones-- == 0;
                                    }),
                     candidates.end());
}

std::vector<Candidate> choose(const std::vector<TensorMemory>& tensors, std::uint64_t n,
                              std::uint64_t total, FaultPattern pattern) {
    const auto wanted = static_cast<double>(n);
    // Five standard deviations above n, plus a constant for small n.
    const double likely = wanted + 5.0 * std::sqrt(wanted) + 13.0;
    double probability = 0.5;
    while (probability / 2 >= likely / static_cast<double>(total)) probability /= 2;
    for (std::uint32_t attempt = 0; attempt < attempts; ++attempt) {
        std::vector<Candidate> candidates = draw_candidates(tensors, probability, pattern, attempt);
        if (candidates.size() > n) keep_lowest(candidates, static_cast<std::size_t>(n));
        if (candidates.size() == n) return candidates;
    }
    throw std::runtime_error("none of " + std::to_string(attempts) + " attempts drew " +
                             std::to_string(n) + " bits");  // probability below 2^-64
}

using Chosen = std::vector<Candidate>::const_iterator;

template <class Words>
void flip_chosen(Words& words, const TensorMemory& memory, Chosen begin, Chosen end,
                 FlipColumns& log) {
    const ExposedBits exposed(memory.mask);
    FlipBatch batch(log);
    for (Chosen c = begin; c != end; ++c) {
        if (c != begin && c->block != std::prev(c)->block) batch.flip(words);
        batch.add(c->element, exposed[c->rank]);
    }
    batch.flip(words);
}

template <class Words>
void flip_all_but_chosen(Words& words, const TensorMemory& memory, Chosen begin, Chosen end,
                         FlipColumns& log) {
    const ExposedBits exposed(memory.mask);
    std::vector<std::uint64_t> kept;
    for (Chosen c = begin; c != end; ++c)
        kept.push_back(std::uint64_t{c->element} * exposed.count() + c->rank);
    std::sort(kept.begin(), kept.end());
    auto next_kept = kept.begin();
    FlipBatch batch(log);
    for (std::uint64_t word = 0, bit = 0; word < memory.words; ++word) {
        for (std::uint32_t rank = 0; rank < exposed.count(); ++rank, ++bit)
            if (next_kept != kept.end() && *next_kept == bit)
                ++next_kept;
            else
                batch.add(word, exposed[rank]);
        batch.flip(words);
    }
}

}  // namespace

void FaultPlan::flip_exactly_into(FlipLog& log, std::uint64_t flips, FaultPattern pattern) const {
    const std::uint64_t total = exposed_bits();
    if (flips > total)
        throw std::invalid_argument("expected at most " + std::to_string(total) +
                                    " flips, the number of exposed bits, got " +
                                    std::to_string(flips));
    FlipColumns& columns = log.calls.emplace_back(1).front();
    if (flips == 0) return;

    // For more than half of the bits, the chosen bits are the ones that do not flip.
    const bool inverted = flips > total / 2;
    const std::uint64_t chosen_bits = inverted ? total - flips : flips;
    const std::vector<Candidate> chosen = choose(tensors_, chosen_bits, total, pattern);
    Chosen begin = chosen.begin();
    SeenFilter seen;
    for (std::uint32_t tensor = 0; tensor < tensors_.size(); ++tensor) {
        const TensorMemory& memory = tensors_[tensor];
        const Chosen end = std::find_if(begin, chosen.end(),
                                        [&](const Candidate& c) { return c.tensor != tensor; });
        if (memory.words == 0 || (begin == end && !inverted)) continue;
        columns.begin_segment(tensor, memory);
        with_words(memory, seen, [&](auto words) {
            inverted ? flip_all_but_chosen(words, memory, begin, end, columns)
                     : flip_chosen(words, memory, begin, end, columns);
        });
        begin = end;
    }
}

}  // namespace proact
