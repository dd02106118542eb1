#include "changed_scales.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "../core/simd_traits.hpp"

namespace proact {
namespace {

/// Adjacent elements [begin, end) of a tensor.
struct Range {
    std::uint64_t begin;
    std::uint64_t end;
};

/// Elements with one scale. Memory is read and logged as if their words were flipped.
template <class Real>
struct Block {
    Real* reals;
    double scale, shift, scale_now, last;

    void flip(const std::uint32_t* element, const std::uint8_t*, std::uint32_t n,
              std::byte* before) const {
        std::memcpy(before, reals + element[0], n * sizeof(Real));
        Real* const first = reals + element[0];
        for (std::uint32_t i = 0; i < n; ++i)
            first[i] = static_cast<Real>(
                (static_cast<double>(first[i]) / scale + shift) * scale_now + last);
    }
};

/// Appends the elements that have a scale of the given number.
void add_ranges(std::vector<Range>& ranges, const Scales& layout, std::uint64_t number,
                std::uint64_t words) {
    const auto add = [&](std::uint64_t row, std::uint64_t block) {
        const std::uint64_t begin = row * layout.row + block * layout.block;
        const std::uint64_t end = std::min({begin + layout.block, (row + 1) * layout.row, words});
        if (begin < end) ranges.push_back({begin, end});
    };
    if (layout.stride != 0) return add(number / layout.stride, number % layout.stride);
    for (std::uint64_t row = 0; row * layout.row < words; ++row) add(row, number);
}

/// Sorts the ranges and joins those that overlap.
void join(std::vector<Range>& ranges) {
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    std::size_t last = 0;
    for (std::size_t i = 1; i < ranges.size(); ++i)
        if (ranges[i].begin <= ranges[last].end)
            ranges[last].end = std::max(ranges[last].end, ranges[i].end);
        else
            ranges[++last] = ranges[i];
    ranges.resize(std::min(ranges.size(), last + 1));
}

template <class Real>
void reread(FlipColumns& log, const ScaledTensor& tensor, const std::vector<Range>& ranges) {
    for (const Range& range : ranges) {
        for (std::uint64_t begin = range.begin; begin < range.end;) {
            const std::uint64_t end = std::min(range.end, tensor.clean.run_end(begin));
            const std::uint64_t number = tensor.clean.number(begin);
            double zero = 0.0, zero_now = 0.0, scale_now = tensor.unit;
            if (tensor.zeros != 0)
                zero = reinterpret_cast<const std::int32_t*>(tensor.zeros)[number];
            for (const ScalePart& part : tensor.parts)
                if (part.is_zero_point)
                    zero_now = part.at(begin);
                else
                    scale_now *= part.at(begin);
            const auto n = static_cast<std::uint32_t>(end - begin);
            log.reserve(n);
            std::uint32_t* const element = log.element.data() + log.size();
            for (std::uint32_t i = 0; i < n; ++i)
                element[i] = static_cast<std::uint32_t>(begin) + i;
            std::fill_n(log.bit.data() + log.size(), n, std::uint8_t{0});
            // Adding -0.0 changes no number; adding 0.0 turns -0.0 into 0.0.
            const double shift = zero == zero_now ? -0.0 : zero - zero_now;
            const Block<Real> block{reinterpret_cast<Real*>(tensor.memory.address),
                                    tensor.clean.at(begin), shift, scale_now,
                                    tensor.has_negative_zero ? -0.0 : 0.0};
            log.flip_pending(block, n);
            log.commit(n);
            begin = end;
        }
    }
}

}  // namespace

double ScaleWord::value(std::uint32_t word) const {
    switch (kind) {
        case Kind::small_float: return format.decode<double>(word);
        case Kind::power_of_two:
            if (word == 255) return std::numeric_limits<double>::quiet_NaN();
            return std::ldexp(1.0, static_cast<int>(word) - 127);
        case Kind::float32: return SimdTraits<float>::from_bits(word);
        default: return word;
    }
}

double ScalePart::at(std::uint64_t element) const {
    std::uint32_t stored = 0;  // little-endian, as on every machine that torch supports
    std::memcpy(&stored,
                reinterpret_cast<const std::byte*>(address) + layout.number(element) * word_bytes,
                word_bytes);
    return word.value(stored);
}

void ChangedScales::add(const ScaledTensor& tensor) {
    const TensorMemory& memory = tensor.memory;
    bool covers = tensor.clean.cover(memory.words);
    for (const ScalePart& part : tensor.parts) {
        covers &= part.layout.cover(memory.words);
        if (part.word_bytes != 1 && part.word_bytes != 2 && part.word_bytes != 4)
            throw std::invalid_argument("expected stored scales of 1, 2 or 4 bytes, got " +
                                        std::to_string(part.word_bytes));
    }
    if (!covers)
        throw std::invalid_argument("expected a scale for each of " + std::to_string(memory.words) +
                                    " elements");
    if ((memory.word_bytes != 4 && memory.word_bytes != 8) || memory.words >> 32 != 0)
        throw std::invalid_argument(
            "expected less than 2^32 numbers of 4 or 8 bytes with scales, got " +
            std::to_string(memory.words) + " of " + std::to_string(memory.word_bytes));
    for (std::size_t i = 0; i < tensor.parts.size(); ++i)
        parts_[tensor.parts[i].address] = {tensors_.size(), i};
    tensors_.push_back(tensor);
}

void ChangedScales::reread_into(FlipLog& log, const FlipLog& flips) const {
    std::map<std::size_t, std::vector<Range>> hit;
    for (const auto& call : flips.calls)
        for (const FlipColumns& part : call)
            for (const FlipColumns::Segment& segment : part.segments) {
                const auto found = parts_.find(segment.memory.address);
                if (found == parts_.end() || segment.begin == segment.end) continue;
                const auto [number, of_part] = found->second;
                const ScaledTensor& tensor = tensors_[number];
                for (std::size_t i = segment.begin; i < segment.end; ++i)
                    add_ranges(hit[number], tensor.parts[of_part].layout, part.element.data()[i],
                               tensor.memory.words);
            }
    FlipColumns& columns = log.calls.emplace_back(1).front();
    for (auto& [number, ranges] : hit) {
        join(ranges);
        const ScaledTensor& tensor = tensors_[number];
        columns.begin_segment(number, tensor.memory);
        if (tensor.memory.word_bytes == 4)
            reread<float>(columns, tensor, ranges);
        else
            reread<double>(columns, tensor, ranges);
    }
}

}  // namespace proact
