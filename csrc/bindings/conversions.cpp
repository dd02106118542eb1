#include "conversions.hpp"

#include <stdexcept>

namespace proact {

Isa isa_named(const std::string& wanted) {
    if (wanted.empty()) return chosen_isa();
    std::string names;
    for (const Isa isa : available_isas()) {
        if (name(isa) == wanted) return isa;
        names += (names.empty() ? "" : ", ") + name(isa);
    }
    throw std::invalid_argument("expected an available instruction set (" + names + "), got " +
                                wanted);
}

NumberFormat number_format(const py::tuple& format) {
    if (format.empty()) return MemoryWords{};
    const auto name = format[0].cast<std::string>();
    const auto number = [&](std::size_t i) { return format[i].cast<std::uint64_t>(); };
    const auto small = [&](std::size_t i) { return format[i].cast<std::uint32_t>(); };
    if (name == "fixed_point") return FixedPoint{small(1), small(2)};
    const auto scales = [&](std::size_t i) {
        return Scales{number(i), number(i + 1), number(i + 2), number(i + 3), number(i + 4)};
    };
    const auto small_float = [&] {
        return SmallFloat{small(1), small(2), format[3].cast<std::int32_t>(),
                          format[4].cast<bool>(), format[5].cast<bool>()};
    };
    if (name == "scaled_integers")
        return ScaledIntegers{small(1), scales(4), format[2].cast<bool>(), number(3)};
    if (name == "scaled_floats") return ScaledFloats{small_float(), scales(6)};
    if (name == "float16") return StoredHalf<Float16>{};
    if (name == "bfloat16") return StoredHalf<BFloat16>{};
    if (name == "float32") return StoredFloat{};
    if (name == "small_float") return small_float();
    if (name == "unread") return Unread{small(1)};
    throw std::invalid_argument(
        "expected the number format fixed_point, scaled_integers, scaled_floats, float16, "
        "bfloat16, float32, small_float or unread, got " +
        name);
}

FlipPlaces flip_places(const Column<std::uint32_t>& tensor, const Column<std::uint64_t>& element,
                       const Column<std::uint8_t>& bit) {
    if (tensor.size() != element.size() || tensor.size() != bit.size())
        throw std::invalid_argument("expected columns of equal length, got " +
                                    std::to_string(tensor.size()) + " tensors, " +
                                    std::to_string(element.size()) + " elements and " +
                                    std::to_string(bit.size()) + " bits");
    return {tensor.data(), element.data(), bit.data(), static_cast<std::size_t>(tensor.size())};
}

std::vector<Relocation> relocations(const Moved& moved) {
    std::vector<Relocation> all;
    for (const auto& [before, bytes, now] : moved) all.push_back({before, bytes, now});
    return all;
}

}  // namespace proact
