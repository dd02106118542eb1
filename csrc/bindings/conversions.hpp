// Conversions between the arguments that Python gives and the types of csrc/.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../core/flip_places.hpp"
#include "../core/number_formats.hpp"
#include "../core/relocation.hpp"
#include "../cpu/isa.hpp"

namespace proact {

namespace py = pybind11;

using unlocked = py::call_guard<py::gil_scoped_release>;

template <class T>
T* pointer_to(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

/// Returns the available instruction set of this name, or the chosen one for an empty name.
Isa isa_named(const std::string& wanted);

/// Converts a format name and its parameters as in proact/ops/number_formats.py. An empty tuple
/// means that memory holds the stored words themselves.
NumberFormat number_format(const py::tuple& format);

/// A column of numbers as a contiguous numpy array.
template <class T>
using Column = py::array_t<T, py::array::c_style | py::array::forcecast>;

/// Views columns of equal length as places; throws std::invalid_argument for other lengths.
FlipPlaces flip_places(const Column<std::uint32_t>& tensor, const Column<std::uint64_t>& element,
                       const Column<std::uint8_t>& bit);

/// Returns a copy of the items' memory.
template <class Item>
py::bytes bytes_of(const std::vector<Item>& items) {
    return {reinterpret_cast<const char*>(items.data()), items.size() * sizeof(Item)};
}

/// Returns a numpy array that owns the given numbers.
template <class Value>
py::array_t<Value> array_of(std::vector<Value>&& numbers) {
    if (numbers.empty()) return py::array_t<Value>(0);
    auto owned = std::make_unique<std::vector<Value>>(std::move(numbers));
    const auto size = static_cast<py::ssize_t>(owned->size());
    const Value* const data = owned->data();
    const py::capsule owner(owned.get(),
                            [](void* memory) { delete static_cast<std::vector<Value>*>(memory); });
    static_cast<void>(owned.release());
    return py::array_t<Value>(size, data, owner);
}

/// The address before, the size in bytes and the address now of each storage that has moved.
using Moved = std::vector<std::tuple<std::uintptr_t, std::uint64_t, std::uintptr_t>>;

std::vector<Relocation> relocations(const Moved& moved);

template <class Log>
void relocate(Log& log, const Moved& moved) {
    log.relocate(relocations(moved));
}

}  // namespace proact
