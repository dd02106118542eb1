// The conversion between the words in memory and the stored words, in device code.
#pragma once

#include <cstdint>

#include "../core/number_formats.hpp"
#include "device_tensor.hpp"
#include "launch.cuh"

namespace proact::cuda {

/// Words whose memory representation is their stored form.
template <class Word_>
struct DeviceNativeWords {
    using Word = Word_;
    using Stored = Word_;
    static constexpr bool round_trips = true;

    __device__ Stored encode(Word word, std::uint32_t) const { return word; }
    __device__ Word decode(Stored stored, std::uint32_t) const { return stored; }
};

/// Stored words that memory represents as floats.
///
/// A float has fewer digits than a 32-bit word, so decoding and encoding can give another word. All
/// flips of a word must therefore act on the same stored word, one after another.
template <class Real, class Format>
struct DeviceEncodedWords {
    using Word = typename SimdTraits<Real>::Bits;
    using Stored = std::uint32_t;
    static constexpr bool round_trips = false;
    Format format;

    __device__ Stored encode(Word word, std::uint32_t element) const {
        return format_at(format, element).encode(SimdTraits<Real>::from_bits(word));
    }
    __device__ Word decode(Stored stored, std::uint32_t element) const {
        return SimdTraits<Real>::bits(format_at(format, element).template decode<Real>(stored));
    }
};

/// Calls `use` with the words of a tensor whose memory holds floats or doubles.
template <class Format, class Use>
__device__ void with_real_words(std::uint32_t word_bytes, const Format& format, Use use) {
    if (word_bytes == 4)
        use(DeviceEncodedWords<float, Format>{format});
    else
        use(DeviceEncodedWords<double, Format>{format});
}

/// Calls `use` with the words of a tensor.
template <class Use>
__device__ void with_words(const DeviceTensor& tensor, Use use) {
    using Kind = DeviceFormat::Kind;
    const DeviceFormat& format = tensor.format;
    switch (format.kind) {
        case Kind::fixed_point: return with_real_words(tensor.word_bytes, format.fixed, use);
        case Kind::scaled_integers: return with_real_words(tensor.word_bytes, format.integers, use);
        case Kind::scaled_floats: return with_real_words(tensor.word_bytes, format.floats, use);
        case Kind::small_float: return with_real_words(tensor.word_bytes, format.small, use);
        case Kind::float16:
            return use(DeviceEncodedWords<float, StoredHalf<Float16>>{StoredHalf<Float16>{}});
        case Kind::bfloat16:
            return use(DeviceEncodedWords<float, StoredHalf<BFloat16>>{StoredHalf<BFloat16>{}});
        case Kind::float32: return use(DeviceEncodedWords<double, StoredFloat>{StoredFloat{}});
        default: break;
    }
    switch (tensor.word_bytes) {
        case 1: return use(DeviceNativeWords<std::uint8_t>{});
        case 2: return use(DeviceNativeWords<std::uint16_t>{});
        case 4: return use(DeviceNativeWords<std::uint32_t>{});
        default: return use(DeviceNativeWords<std::uint64_t>{});
    }
}

template <class Stored>
__device__ Stored with_bit_flipped(Stored word, std::uint8_t bit) {
    return static_cast<Stored>(word ^ (Stored{1} << bit));
}

}  // namespace proact::cuda
