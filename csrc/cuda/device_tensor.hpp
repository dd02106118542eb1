// The descriptions of a plan's tensors that kernels read from device memory. They are uploaded once
// and serve all trials.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../core/tensor_memory.hpp"

namespace proact::cuda {

/// NumberFormat without std::variant, which device code cannot visit.
struct DeviceFormat {
    enum class Kind : std::uint32_t {
        memory_words,
        fixed_point,
        scaled_integers,
        scaled_floats,
        float16,
        bfloat16,
        float32,
        small_float,
    };

    Kind kind;
    FixedPoint fixed;
    ScaledIntegers integers;
    ScaledFloats floats;
    SmallFloat small;
};

/// A tensor in device memory. The addresses of its scales refer to device memory too.
struct DeviceTensor {
    std::uintptr_t address;
    std::uint64_t words;
    std::uint64_t stream;
    std::uint32_t word_bytes;
    std::uint32_t bits_per_word;  // exposed bits
    std::uint8_t exposed[64];     // the number of each exposed bit in the stored word
    DeviceFormat format;
};
static_assert(std::is_trivially_copyable_v<DeviceTensor>, "it is uploaded as bytes");

/// Throws std::invalid_argument for a number format without memory.
inline DeviceFormat device_format(const NumberFormat& format) {
    using Kind = DeviceFormat::Kind;
    DeviceFormat made{};
    if (std::holds_alternative<Unread>(format))
        throw std::invalid_argument("expected tensors with device memory, got one without");
    if (const auto* fixed = std::get_if<FixedPoint>(&format)) {
        made.kind = Kind::fixed_point;
        made.fixed = *fixed;
    } else if (const auto* integers = std::get_if<ScaledIntegers>(&format)) {
        made.kind = Kind::scaled_integers;
        made.integers = *integers;
    } else if (const auto* floats = std::get_if<ScaledFloats>(&format)) {
        made.kind = Kind::scaled_floats;
        made.floats = *floats;
    } else if (const auto* small = std::get_if<SmallFloat>(&format)) {
        made.kind = Kind::small_float;
        made.small = *small;
    } else if (std::holds_alternative<StoredHalf<Float16>>(format)) {
        made.kind = Kind::float16;
    } else if (std::holds_alternative<StoredHalf<BFloat16>>(format)) {
        made.kind = Kind::bfloat16;
    } else if (std::holds_alternative<StoredFloat>(format)) {
        made.kind = Kind::float32;
    } else {
        made.kind = Kind::memory_words;
    }
    return made;
}

inline DeviceTensor device_tensor(const TensorMemory& memory) {
    DeviceTensor tensor{};
    tensor.address = memory.address;
    tensor.words = memory.words;
    tensor.stream = memory.stream;
    tensor.word_bytes = memory.word_bytes;
    tensor.bits_per_word = memory.exposed_bits_per_word();
    std::uint32_t rank = 0;
    for (std::uint8_t bit = 0; bit < 64; ++bit)
        if ((memory.mask >> bit & 1) != 0) tensor.exposed[rank++] = bit;
    tensor.format = device_format(memory.format);
    return tensor;
}

}  // namespace proact::cuda
