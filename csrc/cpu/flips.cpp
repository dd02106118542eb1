#include "flips.hpp"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>

#include "../core/error_text.hpp"
#include "equal_parts.hpp"
#include "flip_words.hpp"
#include "threads.hpp"

namespace proact {
/// Consecutive blocks of one tensor.
struct BlockRange {
    std::size_t plan_index;
    TensorMemory memory;
    BlockLaw law;
    ExposedBits exposed;
    std::uint64_t begin;
    std::uint64_t end;
};

/// All blocks of all tensors in plan order.
class FaultPlan::BlockSchedule {
   public:
    BlockSchedule(const std::vector<TensorMemory>& tensors, double ber) : laws_(ber) {
        if (ber == 0.0) return;
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            if (tensors[i].words == 0) continue;
            const BlockLaw law = laws_.of(tensors[i]);
            const std::uint64_t blocks = law.blocks(tensors[i].words);
            // In units of one flip. A block has a fixed overhead of a few flips.
            constexpr double block_overhead = 8;
            parts.add({i, tensors[i], law, ExposedBits(tensors[i].mask), 0, blocks},
                      block_overhead + ber * law.bits());
        }
    }

    EqualParts<BlockRange> parts;

   private:
    BlockLaws laws_;
};

namespace {

/// Whether flips are logged for an undo or only counted.
enum class Logging { keep, discard };

/// Flips the drawn bits of a range of blocks. A block's words are prefetched when its positions are
/// drawn and modified after the next block's draw, so that the draw hides the memory latency.
template <class Words>
std::uint64_t flip_drawn(Words& words, BlockDrawer& drawer, const BlockRange& range,
                         FlipColumns& log, Logging logging) {
    const ExposedBits& exposed = range.exposed;
    std::uint32_t pending = 0;
    std::uint64_t total = 0;
    const FlipColumns::Segment& segment = log.segments.back();

    const auto flip_pending_bits = [&] {
        log.flip_pending(words, pending);
        total += pending;
        if (logging == Logging::keep) log.commit(pending);
    };
    for (std::uint64_t block = range.begin; block < range.end; ++block) {
        log.reserve(2 * BlockDrawer::max_positions);
        std::uint32_t* const element = log.element.data() + segment.end + pending;
        std::uint8_t* const bit = log.bit.data() + segment.end + pending;
        const std::uint64_t first_word = block << range.law.words_log2;
        const auto first = static_cast<std::uint32_t>(first_word);
        std::uint32_t drawn = drawer.draw(
            static_cast<std::uint32_t>(block),
            [&](std::uint32_t position) { words.prefetch(first + exposed.word(position)); });
        exposed.split(drawer.positions(), drawn, first, element, bit);
        if (range.memory.words - first_word < range.law.words())
            drawn = drop_words_beyond_end(range.memory.words, element, bit, drawn);
        flip_pending_bits();
        if (logging == Logging::discard) {  // move pending flips to the front
            std::copy_n(element, drawn, log.element.data());
            std::copy_n(bit, drawn, log.bit.data());
        }
        pending = drawn;
    }
    flip_pending_bits();
    return total;
}

/// For ber > 1/2: flips every exposed bit of a range of blocks except the drawn ones.
template <class Words>
std::uint64_t flip_all_but_drawn(Words& words, BlockDrawer& drawer, const BlockRange& range,
                                 FlipColumns& log, Logging logging) {
    const ExposedBits& exposed = range.exposed;
    std::uint32_t positions[BinomialTable::max_count];
    std::uint64_t total = 0;
    const FlipColumns::Segment& segment = log.segments.back();
    for (std::uint64_t block = range.begin; block < range.end; ++block) {
        const std::uint32_t drawn =
            drawer.draw(static_cast<std::uint32_t>(block), [](std::uint32_t) {});
        std::copy_n(drawer.positions(), drawn, positions);
        std::sort(positions, positions + drawn);
        const std::uint32_t *kept = positions, *kept_end = positions + drawn;
        const std::uint64_t first_word = block << range.law.words_log2;
        const std::uint64_t end = std::min(first_word + range.law.words(), range.memory.words);
        std::uint32_t position = 0;
        for (std::uint64_t word = first_word; word < end; ++word) {
            log.reserve(64);
            std::uint32_t* element = log.element.data() + segment.end;
            std::uint8_t* bit = log.bit.data() + segment.end;
            std::uint32_t flips = 0;
            for (std::uint32_t rank = 0; rank < exposed.count(); ++rank, ++position) {
                if (kept != kept_end && *kept == position) {
                    ++kept;
                    continue;
                }
                element[flips] = static_cast<std::uint32_t>(word);
                bit[flips++] = exposed[rank];
            }
            log.flip_pending(words, flips);
            total += flips;
            if (logging == Logging::keep) log.commit(flips);
        }
    }
    return total;
}

std::uint64_t flip_range(const BlockRange& range, FaultPattern pattern, Isa isa, SeenFilter& seen,
                         FlipColumns& log, Logging logging) {
    const TensorMemory& memory = range.memory;
    BlockDrawer drawer(range.law, {pattern.seed, pattern.trial, memory.stream},
                       batch_functions(isa), seen);
    log.begin_segment(range.plan_index, memory);
    return with_words(memory, seen, [&](auto words) {
        return range.law.inverted ? flip_all_but_drawn(words, drawer, range, log, logging)
                                  : flip_drawn(words, drawer, range, log, logging);
    });
}

void check_ber(double ber) {
    if (!(ber >= 0.0 && ber <= 1.0))
        throw std::invalid_argument("expected a BER in [0, 1], got " + shown(ber));
}

}  // namespace

void FaultPlan::add(const TensorMemory& tensor) {
    tensor.check();
    tensors_.push_back(tensor);
    cache_->schedule.clear();
    if (tensor.words == 0 || tensor.is_stored_as<Unread>()) return;
    const std::uintptr_t begin = tensor.address, end = begin + tensor.words * tensor.word_bytes;
    const auto next = extents_.upper_bound(begin);
    overlapping_ |= next != extents_.end() && next->first < end;
    overlapping_ |= next != extents_.begin() && std::prev(next)->second > begin;
    std::uintptr_t& known_end = extents_[begin];
    known_end = std::max(known_end, end);
}

std::uint64_t FaultPlan::exposed_bits() const { return proact::exposed_bits(tensors_); }

bool FaultPlan::replay_undoes() const {
    return !overlapping_ &&
           std::all_of(tensors_.begin(), tensors_.end(), [](const TensorMemory& tensor) {
               const auto* fixed = std::get_if<FixedPoint>(&tensor.format);
               return fixed == nullptr || fixed->word_bits <= (tensor.word_bytes == 4 ? 24u : 53u);
           });
}

void FaultPlan::flip_into(FlipLog& log, double ber, FaultPattern pattern,
                          Execution execution) const {
    const std::shared_ptr<const BlockSchedule> schedule = schedule_at(ber);
    const std::size_t parts = schedule->parts.parts(overlapping_ ? 1 : execution.threads);
    const auto likely_flips = static_cast<std::size_t>(
        1.05 * ber * static_cast<double>(exposed_bits()) / static_cast<double>(parts));
    std::vector<FlipColumns>& columns =
        log.calls.emplace_back(reusable_columns(parts, likely_flips));
    parallel_for(execution.threads, parts, [&](std::size_t part) {
        columns[part].reserve_total(likely_flips);
        SeenFilter seen;
        schedule->parts.for_each_range(part, parts, [&](const BlockRange& range) {
            flip_range(range, pattern, execution.isa, seen, columns[part], Logging::keep);
        });
    });
}

std::shared_ptr<const FaultPlan::BlockSchedule> FaultPlan::schedule_at(double ber) const {
    check_ber(ber);
    return cache_->schedule.at(
        ber, [&] { return std::make_shared<const BlockSchedule>(tensors_, ber); });
}

std::vector<FlipColumns> FaultPlan::reusable_columns(std::size_t parts, std::size_t flips) const {
    std::vector<FlipColumns> columns(parts);
    // Do not wait for the lock: allocating is cheaper, and a forked child could wait forever.
    const std::unique_lock<std::mutex> lock(cache_->lock, std::try_to_lock);
    if (!lock.owns_lock()) return columns;
    cache_->parts = parts;
    cache_->flips = flips;
    for (FlipColumns& part : columns) {
        if (cache_->spare.empty()) break;
        if (cache_->is_worth_keeping(cache_->spare.back())) part = std::move(cache_->spare.back());
        cache_->spare.pop_back();
    }
    return columns;
}

void FaultPlan::recycle(FlipLog& log) const {
    const std::unique_lock<std::mutex> lock(cache_->lock, std::try_to_lock);
    for (auto& call : log.calls)
        for (FlipColumns& part : call)
            if (lock.owns_lock() && cache_->spare.size() < 2 * cache_->parts &&
                cache_->is_worth_keeping(part)) {
                part.segments.clear();
                cache_->spare.push_back(std::move(part));
            }
    log.calls.clear();
}

FlipLog FaultPlan::flip(double ber, FaultPattern pattern, Execution execution) const {
    FlipLog log;
    flip_into(log, ber, pattern, execution);
    return log;
}

std::uint64_t FaultPlan::flip_unlogged(double ber, FaultPattern pattern,
                                       Execution execution) const {
    const std::shared_ptr<const BlockSchedule> schedule = schedule_at(ber);
    const std::size_t parts = schedule->parts.parts(overlapping_ ? 1 : execution.threads);
    std::vector<std::uint64_t> flips(parts, 0);
    parallel_for(execution.threads, parts, [&](std::size_t part) {
        SeenFilter seen;
        schedule->parts.for_each_range(part, parts, [&](const BlockRange& range) {
            FlipColumns scratch;
            flips[part] +=
                flip_range(range, pattern, execution.isa, seen, scratch, Logging::discard);
        });
    });
    std::uint64_t total = 0;
    for (const std::uint64_t count : flips) total += count;
    return total;
}

}  // namespace proact
