#include "rounding.hpp"

#include <algorithm>
#include <stdexcept>
#include <type_traits>

#include "flip_words.hpp"
#include "threads.hpp"

namespace proact {
namespace {

template <class Real, class Format>
void round_all(const TensorMemory& tensor, const Format& format, unsigned threads) {
    constexpr std::uint64_t part = std::uint64_t{1} << 16;
    Real* const reals = reinterpret_cast<Real*>(tensor.address);
    parallel_for(threads, (tensor.words + part - 1) / part, [&](std::size_t number) {
        const std::uint64_t begin = number * part, end = std::min(begin + part, tensor.words);
        for (std::uint64_t i = begin; i < end; ++i) {
            const auto& here = format_at(format, static_cast<std::uint32_t>(i));
            reals[i] = here.template decode<Real>(here.encode(reals[i]));
        }
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
