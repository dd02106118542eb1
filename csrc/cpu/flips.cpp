#include "flips.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <stdexcept>
#include <utility>

namespace proact {
namespace {

std::uint32_t population(std::uint64_t mask) {
    std::uint32_t bits = 0;
    for (; mask != 0; mask &= mask - 1) ++bits;
    return bits;
}

std::uint32_t stored_bits(const TensorMemory& tensor) {
    return tensor.is_fixed_point() ? tensor.fixed.word_bits : 8 * tensor.word_bytes;
}

/// The tables of one BER, built when first needed: tensors of a like size share theirs.
class BlockLaws {
   public:
    explicit BlockLaws(double ber)
        : inverted_(ber > 0.5), draw_probability_(inverted_ ? 1.0 - ber : ber) {}

    BlockLaw of(std::uint32_t bits_per_word, std::uint64_t words) {
        const std::uint32_t log2 = block_words_log2(draw_probability_, bits_per_word, words);
        const std::uint64_t bits = std::uint64_t{bits_per_word} << log2;
        const auto table = tables_.try_emplace(bits, bits, draw_probability_).first;
        return {log2, bits_per_word, inverted_, table->second.view()};
    }

   private:
    bool inverted_;
    double draw_probability_;
    std::map<std::uint64_t, BinomialTable> tables_;
};

/// Which bit of a stored word an exposed bit is.
class ExposedBits {
   public:
    explicit ExposedBits(std::uint64_t mask) {
        for (std::uint8_t bit = 0; bit < 64; ++bit)
            if (mask >> bit & 1) bit_[count_++] = bit;
    }
    std::uint32_t operator[](std::uint32_t rank) const { return bit_[rank]; }
    std::uint32_t count() const { return count_; }

   private:
    std::uint8_t bit_[64] = {};
    std::uint32_t count_ = 0;
};

class Logged {
   public:
    explicit Logged(std::vector<Flip>& flips) : flips_(flips) {}
    void operator()(std::uint64_t element, std::uint32_t bit, std::uint64_t before) {
        flips_.emplace_back(element, bit, before);
    }

   private:
    std::vector<Flip>& flips_;
};

class Counted {
   public:
    void operator()(std::uint64_t, std::uint32_t, std::uint64_t) { ++count; }
    std::uint64_t count = 0;
};

/// Flips bits of words that are their own stored form.
template <class Word, class Sink>
class NativeWords {
   public:
    NativeWords(const TensorMemory& tensor, Sink& sink)
        : words_(reinterpret_cast<Word*>(tensor.address)), sink_(sink) {}

    void forget_words() {}
    void prefetch(std::uint64_t element) const { __builtin_prefetch(words_ + element, 1); }
    void flip(std::uint64_t element, std::uint32_t bit) {
        const Word before = words_[element];
        sink_(element, bit, before);
        words_[element] = static_cast<Word>(before ^ (Word{1} << bit));
    }

   private:
    Word* words_;
    Sink& sink_;
};

/// Flips bits of the fixed-point words that floats stand for.
///
/// A float has fewer digits than a 32-bit word: 16384.05 reads back as another word than the one it
/// came from. So a second flip in the same word must start from the stored word that the first one
/// left, not from the float. Blocks share no word, hence the memory of one block is enough.
template <class Real, class Word, class Sink>
class FixedPointWords {
   public:
    FixedPointWords(const TensorMemory& tensor, Sink& sink)
        : reals_(reinterpret_cast<Real*>(tensor.address)), fixed_(tensor.fixed), sink_(sink) {}

    void forget_words() {
        std::fill(std::begin(seen_), std::end(seen_), 0);
        touched_.clear();
    }
    void prefetch(std::uint64_t element) const { __builtin_prefetch(reals_ + element, 1); }
    void flip(std::uint64_t element, std::uint32_t bit) {
        std::uint32_t& stored = stored_word(element);
        stored ^= std::uint32_t{1} << bit;

        Word before;
        std::memcpy(&before, reals_ + element, sizeof before);
        sink_(element, bit, before);
        reals_[element] = fixed_.template decode<Real>(stored);
    }

   private:
    std::uint32_t& stored_word(std::uint64_t element) {
        std::uint64_t& cell = seen_[(element >> 6) & 15];
        const std::uint64_t bit = std::uint64_t{1} << (element & 63);
        if (cell & bit)
            for (auto& [touched, stored] : touched_)
                if (touched == element) return stored;
        cell |= bit;
        touched_.emplace_back(element, fixed_.encode(reals_[element]));
        return touched_.back().second;
    }

    Real* reals_;
    FixedPoint fixed_;
    Sink& sink_;
    std::uint64_t seen_[16] = {};
    std::vector<std::pair<std::uint64_t, std::uint32_t>> touched_;
};

template <class Words>
void flip_drawn(Words& words, const DrawnPositions& drawn, const ExposedBits& exposed,
                std::uint64_t first_word, std::uint64_t tensor_words) {
    words.forget_words();
    for (const std::uint32_t position : drawn) {
        const std::uint64_t element = first_word + position / exposed.count();
        if (element < tensor_words) words.flip(element, exposed[position % exposed.count()]);
    }
}

template <class Words>
void flip_all_but_drawn(Words& words, DrawnPositions& drawn, const ExposedBits& exposed,
                        std::uint64_t first_word, std::uint64_t words_here) {
    std::sort(drawn.position, drawn.position + drawn.count);
    const std::uint32_t* kept = drawn.begin();
    std::uint32_t position = 0;
    for (std::uint64_t word = 0; word < words_here; ++word) {
        words.forget_words();  // the walk never returns to a word
        for (std::uint32_t rank = 0; rank < exposed.count(); ++rank, ++position) {
            if (kept != drawn.end() && *kept == position)
                ++kept;
            else
                words.flip(first_word + word, exposed[rank]);
        }
    }
}

template <class Words>
void flip_tensor(Words words, const TensorMemory& tensor, const BlockLaw& law,
                 const FaultStream& fault) {
    const ExposedBits exposed(tensor.mask);
    const std::uint64_t blocks = (tensor.words + law.words() - 1) >> law.words_log2;
    for (std::uint64_t block = 0; block < blocks; ++block) {
        const std::uint64_t first_word = block << law.words_log2;
        const std::uint64_t words_here = std::min(law.words(), tensor.words - first_word);
        DrawnPositions drawn =
            draw_block(law, fault, static_cast<std::uint32_t>(block), [&](std::uint32_t position) {
                const std::uint64_t word = position / exposed.count();
                if (!law.inverted && word < words_here) words.prefetch(first_word + word);
            });
        if (law.inverted)
            flip_all_but_drawn(words, drawn, exposed, first_word, words_here);
        else
            flip_drawn(words, drawn, exposed, first_word, tensor.words);
    }
}

template <class Sink>
void flip_memory(const TensorMemory& tensor, const BlockLaw& law, const FaultStream& fault,
                 Sink& sink) {
    if (tensor.is_fixed_point()) {
        if (tensor.word_bytes == 4)
            flip_tensor(FixedPointWords<float, std::uint32_t, Sink>(tensor, sink), tensor, law,
                        fault);
        else
            flip_tensor(FixedPointWords<double, std::uint64_t, Sink>(tensor, sink), tensor, law,
                        fault);
        return;
    }
    switch (tensor.word_bytes) {
        case 1:
            return flip_tensor(NativeWords<std::uint8_t, Sink>(tensor, sink), tensor, law, fault);
        case 2:
            return flip_tensor(NativeWords<std::uint16_t, Sink>(tensor, sink), tensor, law, fault);
        case 4:
            return flip_tensor(NativeWords<std::uint32_t, Sink>(tensor, sink), tensor, law, fault);
        default:
            return flip_tensor(NativeWords<std::uint64_t, Sink>(tensor, sink), tensor, law, fault);
    }
}

template <class Visit>
void for_each_faulted_tensor(const std::vector<TensorMemory>& tensors, double ber, Visit visit) {
    if (!(ber >= 0.0 && ber <= 1.0)) throw std::invalid_argument("ber must lie in [0, 1]");
    if (ber == 0.0) return;
    BlockLaws laws(ber);
    for (std::size_t i = 0; i < tensors.size(); ++i)
        visit(i, tensors[i], laws.of(population(tensors[i].mask), tensors[i].words));
}

template <class Word>
void write_back(const TensorMemory& memory, const Flip* begin, const Flip* end) {
    constexpr std::ptrdiff_t ahead = 16;
    auto* words = reinterpret_cast<Word*>(memory.address);
    for (const Flip* flip = end; flip-- != begin;) {
        if (flip - begin >= ahead) __builtin_prefetch(words + flip[-ahead].element(), 1);
        words[flip->element()] = static_cast<Word>(flip->before());
    }
}

}  // namespace

void FlipLog::restore() const {
    for (std::size_t i = segments.size(); i-- > 0;) {
        const TensorMemory& memory = segments[i].memory;
        const Flip* begin = flips.data() + (i == 0 ? 0 : segments[i - 1].end);
        // The last segment may be unfinished: it has whatever flips there are.
        const bool last = i + 1 == segments.size();
        const Flip* end = flips.data() + (last ? flips.size() : segments[i].end);
        switch (memory.word_bytes) {
            case 1: write_back<std::uint8_t>(memory, begin, end); break;
            case 2: write_back<std::uint16_t>(memory, begin, end); break;
            case 4: write_back<std::uint32_t>(memory, begin, end); break;
            default: write_back<std::uint64_t>(memory, begin, end); break;
        }
    }
}

void FaultPlan::add(const TensorMemory& tensor) {
    const std::uint32_t bytes = tensor.word_bytes;
    if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8)
        throw std::invalid_argument("a word has 1, 2, 4 or 8 bytes");
    if (tensor.is_fixed_point() &&
        (bytes < 4 || tensor.fixed.word_bits < 2 || tensor.fixed.word_bits > 32 ||
         tensor.fixed.fraction_bits >= tensor.fixed.word_bits))
        throw std::invalid_argument("fixed point takes float32 or float64 and 2 to 32 bits");
    const std::uint32_t bits = stored_bits(tensor);
    if (tensor.mask == 0 || (bits < 64 && tensor.mask >> bits != 0))
        throw std::invalid_argument("a bit mask exposes 1 bit or more, all within the word");
    if (tensor.stream >> stream_bits != 0) throw std::invalid_argument("a stream lies below 2^48");
    // The block number has 32 bits; the smallest block has one word.
    if (tensor.words > std::uint64_t{1} << 32)
        throw std::invalid_argument("a tensor has at most 2^32 elements");
    tensors_.push_back(tensor);
}

std::uint64_t FaultPlan::exposed_bits() const {
    std::uint64_t bits = 0;
    for (const TensorMemory& tensor : tensors_) bits += tensor.words * population(tensor.mask);
    return bits;
}

void FaultPlan::flip_into(FlipLog& log, double ber, std::uint64_t seed, std::uint32_t trial) const {
    Logged sink(log.flips);
    for_each_faulted_tensor(tensors_, ber,
                            [&](std::size_t i, const TensorMemory& tensor, const BlockLaw& law) {
                                if (log.flips.empty())
                                    log.flips.reserve(static_cast<std::size_t>(
                                        1.05 * ber * static_cast<double>(exposed_bits()) + 64.0));
                                log.segments.push_back({i, tensor, log.flips.size()});
                                flip_memory(tensor, law, {seed, trial, tensor.stream}, sink);
                                log.segments.back().end = log.flips.size();
                            });
}

FlipLog FaultPlan::flip(double ber, std::uint64_t seed, std::uint32_t trial) const {
    FlipLog log;
    flip_into(log, ber, seed, trial);
    return log;
}

std::uint64_t FaultPlan::flip_unlogged(double ber, std::uint64_t seed, std::uint32_t trial) const {
    Counted sink;
    for_each_faulted_tensor(tensors_, ber,
                            [&](std::size_t, const TensorMemory& tensor, const BlockLaw& law) {
                                flip_memory(tensor, law, {seed, trial, tensor.stream}, sink);
                            });
    return sink.count;
}

}  // namespace proact
