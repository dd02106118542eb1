#include "flip_rate.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace proact::cuda {
namespace {

constexpr std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 7) / 8 * 8; }

constexpr std::uint32_t parts(std::uint64_t all, std::uint32_t part) {
    return static_cast<std::uint32_t>((all + part - 1) / part);
}

DeviceLaw law_of(const TensorMemory& tensor, const BlockLaw& law) {
    DeviceLaw made{};
    made.blocks = law.blocks(tensor.words);
    made.words_log2 = law.words_log2;
    made.table_size = law.drawn.size;
    made.shares = made.restore_shares = 1;
    made.slots = law.drawn.size;
    if (law.inverted) {
        const std::uint64_t largest = std::min(law.words(), tensor.words);
        made.slots = largest * law.bits_per_word;
        made.shares = parts(largest, words_per_share);
        made.restore_shares = parts(made.slots, slots_per_share);
    }
    return made;
}

/// Appends the binomial tables of all laws, each once.
class TableWriter {
   public:
    explicit TableWriter(std::vector<std::uint64_t>& words) : words_(words) {}

    void place(DeviceLaw& law, const BinomialView& table) {
        const auto [found, is_new] = places_.try_emplace(table.survival, 8 * words_.size());
        if (is_new) {
            words_.insert(words_.end(), table.survival, table.survival + table.size);
            words_.resize(words_.size() + (1u << BinomialView::guide_bits) / 8);
            std::memcpy(&words_[words_.size() - (1u << BinomialView::guide_bits) / 8], table.guide,
                        1u << BinomialView::guide_bits);
        }
        law.survival = found->second;
        law.guide = law.survival + 8 * std::uint64_t{table.size};
    }

   private:
    std::vector<std::uint64_t>& words_;
    std::map<const std::uint64_t*, std::uint64_t> places_;
};

}  // namespace

FlipRate::FlipRate(const std::vector<TensorMemory>& tensors, double ber) : is_inverted_(ber > 0.5) {
    if (!(ber > 0.0 && ber <= 1.0))
        throw std::invalid_argument("expected a bit error rate in (0, 1], got " + shown(ber));
    static_assert(sizeof(DeviceLaw) % 8 == 0, "tables follow the laws");
    BlockLaws laws(ber);
    tables_.resize(tensors.size() * sizeof(DeviceLaw) / 8);
    TableWriter tables(tables_);
    std::uint64_t next = 0;
    for (const TensorMemory& tensor : tensors) {
        DeviceLaw law{};
        if (tensor.words != 0) {
            const BlockLaw block_law = laws.of(tensor);
            law = law_of(tensor, block_law);
            tables.place(law, block_law.drawn);
        }
        law.first_thread = threads_;
        law.first_restorer = restorers_;
        law.counts = next;
        next += law.blocks * sizeof(std::uint32_t);
        threads_ += law.blocks * law.shares;
        restorers_ += law.blocks * law.restore_shares;
        laws_.push_back(law);
    }
    counted_bytes_ = next = aligned(next);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        DeviceLaw& law = laws_[i];
        const std::uint64_t places = law.blocks * law.slots, word_bytes = tensors[i].word_bytes;
        // Wider words first, so that each array is aligned to its words.
        law.before = next + (word_bytes < 4 ? places * 4 : 0);
        law.element = next + (word_bytes < 4 ? 0 : places * word_bytes);
        law.bit = next + places * (word_bytes + 4);
        next = aligned(law.bit + places);
    }
    logged_bytes_ = next;
    if (!laws_.empty()) std::memcpy(tables_.data(), laws_.data(), laws_.size() * sizeof(DeviceLaw));
}

BinomialView FlipRate::table(const DeviceLaw& law) const {
    const auto* const tables = reinterpret_cast<const std::uint8_t*>(tables_.data());
    return {reinterpret_cast<const std::uint64_t*>(tables + law.survival), tables + law.guide,
            law.table_size};
}

std::uint64_t FlipRate::flips(const std::vector<TensorMemory>& tensors,
                              const FaultPattern& pattern) const {
    std::uint64_t flips = 0;
    for (std::size_t i = 0; i < laws_.size(); ++i) {
        const HostDraws draws = draws_of(tensors[i], laws_[i], pattern);
        for (std::uint64_t block = 0; block < laws_[i].blocks; ++block)
            flips += draws.flips_in_block(block);
    }
    return flips;
}

std::vector<std::uint32_t> FlipRate::hit(const std::vector<TensorMemory>& tensors,
                                         const FaultPattern& pattern) const {
    std::vector<std::uint32_t> numbers;
    for (std::uint32_t i = 0; i < laws_.size(); ++i) {
        const HostDraws draws = draws_of(tensors[i], laws_[i], pattern);
        for (std::uint64_t block = 0; block < laws_[i].blocks; ++block) {
            if (draws.flips_in_block(block) == 0) continue;
            numbers.push_back(i);
            break;
        }
    }
    return numbers;
}

FlipRate::HostDraws FlipRate::draws_of(const TensorMemory& tensor, const DeviceLaw& law,
                                       const FaultPattern& pattern) const {
    return {{law.words_log2, tensor.exposed_bits_per_word(), is_inverted_, table(law)},
            {pattern.seed, pattern.trial, tensor.stream},
            tensor.words};
}

std::uint64_t FlipRate::HostDraws::flips_in_block(std::uint64_t block) const {
    const auto number = static_cast<std::uint32_t>(block);
    const std::uint64_t words = std::min(law.words(), tensor_words - (block << law.words_log2));
    const std::uint64_t bits = words * law.bits_per_word;
    BlockRandomWords random(fault, number);
    std::uint64_t drawn = law.drawn.count(random.next64());
    if (drawn != 0 && words < law.words()) {
        drawn = 0;
        for (const std::uint32_t position : draw_block(law, fault, number))
            drawn += position < bits;
    }
    return law.inverted ? bits - drawn : drawn;
}

}  // namespace proact::cuda
