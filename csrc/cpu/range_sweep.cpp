#include "range_sweep.hpp"

#include <algorithm>

#include "range_kernels.hpp"
#include "threads.hpp"

namespace proact {
namespace {

template <class Element>
FirstOutside<Element> first_outside_of(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx512) return avx512_first_outside<Element>();
    if (isa == Isa::avx2) return avx2_first_outside<Element>();
#else
    static_cast<void>(isa);
#endif
    return baseline_first_outside<Element>();
}

/// With fewer elements, waking a sleeping thread costs more than it saves.
constexpr std::uint64_t min_parallel_elements = std::uint64_t{1} << 17;
constexpr std::uint64_t max_chunk_elements = std::uint64_t{1} << 15;

/// Repairs adjacent elements that share their bounds and returns the number of repairs.
template <class Element>
std::uint64_t sweep_run(Element* x, std::size_t size,
                        const ValueRange<typename Arithmetic<Element>::Real>& range,
                        FirstOutside<Element> first_outside, SweepLog::Part& log) {
    const auto passes = [&](std::size_t i) {
        return range.passes(Arithmetic<Element>::load(x[i]));
    };
    std::uint64_t repairs = 0;
    std::size_t i = 0;
    while ((i += first_outside(x + i, size - i, range.floor, range.ceiling)) < size)
        for (const std::size_t end = std::min(size, i + range_window); i < end;) {
            std::size_t outside_end = i;
            while (outside_end < end && !passes(outside_end)) ++outside_end;
            if (outside_end == i) {
                ++i;
                continue;
            }
            log.save(x + i, (outside_end - i) * sizeof(Element));
            repairs += outside_end - i;
            for (; i < outside_end; ++i)
                x[i] = Arithmetic<Element>::store(range.repaired(Arithmetic<Element>::load(x[i])));
        }
    return repairs;
}

template <class Element>
std::uint64_t sweep_chunk(const BoundedMemory& memory, std::uint64_t begin, std::uint64_t end,
                          RangeAction action, Isa isa, SweepLog::Part& log) {
    using Real = typename Arithmetic<Element>::Real;
    const auto first_outside = first_outside_of<Element>(isa);
    auto* x = reinterpret_cast<Element*>(memory.address);
    std::uint64_t repairs = 0;
    while (begin < end) {
        const std::uint64_t run = begin / memory.inner;
        const std::uint64_t run_end =
            memory.channels == 1 ? end : std::min(end, (run + 1) * memory.inner);
        const std::uint64_t channel = run % memory.channels;
        const auto range =
            ValueRange<Real>::of(bound_at<Real>(memory.low, memory.bound_dtype, channel),
                                 bound_at<Real>(memory.high, memory.bound_dtype, channel),
                                 largest_element<Element>, action);
        repairs += sweep_run(x + begin, run_end - begin, range, first_outside, log);
        begin = run_end;
    }
    return repairs;
}

}  // namespace

void RangePlan::add(const BoundedMemory& memory) {
    check_channels(memory.channels, memory.inner);
    for (std::uint64_t begin = 0; begin < memory.elements; begin += max_chunk_elements)
        chunks_.push_back(
            {memories_.size(), begin, std::min(memory.elements, begin + max_chunk_elements)});
    memories_.push_back(memory);
    elements_ += memory.elements;
}

std::vector<std::uint64_t> RangePlan::sweep_into(SweepLog& log, RangeAction action, Isa isa,
                                                 unsigned threads) const {
    std::vector<std::uint64_t> chunk_repairs(chunks_.size()), repairs(memories_.size());
    const auto share = [&](std::size_t begin, std::size_t end) {
        SweepLog::Part& part = log.new_part();
        for (std::size_t p = begin; p < end; ++p) {
            const Chunk& chunk = chunks_[p];
            const BoundedMemory& memory = memories_[chunk.memory];
            part.begin_memory();
            with_element(memory.dtype, [&](auto* type) {
                using Element = std::remove_pointer_t<decltype(type)>;
                chunk_repairs[p] =
                    sweep_chunk<Element>(memory, chunk.begin, chunk.end, action, isa, part);
            });
        }
    };
    parallel_shares(elements_ < min_parallel_elements ? 1 : threads, chunks_.size(), share);
    for (std::size_t p = 0; p < chunks_.size(); ++p) repairs[chunks_[p].memory] += chunk_repairs[p];
    return repairs;
}

}  // namespace proact
