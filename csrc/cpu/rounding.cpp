#include "rounding.hpp"

#include <algorithm>
#include <stdexcept>
#include <type_traits>

#include "threads.hpp"

namespace proact {
namespace {

/// Rounds adjacent numbers of one format.
template <class Real, class Format>
void round_run(Real* reals, std::uint64_t begin, std::uint64_t end, const Format& format) {
    for (std::uint64_t i = begin; i < end; ++i)
        reals[i] = format.template decode<Real>(format.encode(reals[i]));
}

template <class Real, class Format>
void round_part(Real* reals, std::uint64_t begin, std::uint64_t end, const Format& format) {
    if constexpr (std::is_same_v<Format, ScaledIntegers> || std::is_same_v<Format, ScaledFloats>) {
        while (begin < end) {
            const std::uint64_t run_end = std::min(end, format.scales.run_end(begin));
            round_run(reals, begin, run_end, format.at(begin));
            begin = run_end;
        }
    } else {
        round_run(reals, begin, end, format);
    }
}

template <class Real, class Format>
void round_all(const TensorMemory& tensor, const Format& format, unsigned threads) {
    constexpr std::uint64_t part = std::uint64_t{1} << 16;
    Real* const reals = reinterpret_cast<Real*>(tensor.address);
    parallel_for(threads, (tensor.words + part - 1) / part, [&](std::size_t number) {
        const std::uint64_t begin = number * part;
        round_part(reals, begin, std::min(begin + part, tensor.words), format);
    });
}

}  // namespace

void round_to_words(const TensorMemory& tensor, unsigned threads) {
    tensor.check();
    std::visit(
        [&](const auto& format) {
            using Format = std::decay_t<decltype(format)>;
            if constexpr (std::is_same_v<Format, MemoryWords> || std::is_same_v<Format, Unread>)
                throw std::invalid_argument("expected numbers that are stored in another form");
            else if constexpr (std::is_same_v<Format, StoredFloat>)
                round_all<double>(tensor, format, threads);
            else if constexpr (std::is_same_v<Format, StoredHalf<Float16>> ||
                               std::is_same_v<Format, StoredHalf<BFloat16>>)
                round_all<float>(tensor, format, threads);
            else if (tensor.word_bytes == 4)
                round_all<float>(tensor, format, threads);
            else
                round_all<double>(tensor, format, threads);
        },
        tensor.format);
}

}  // namespace proact
