// Tells whether memory can be written, without changing it and without a signal.
#pragma once

#include <cstddef>
#include <cstdint>

namespace proact {

/// Whether the first and the last of `bytes` bytes can be written. No value changes. Memory between
/// them is assumed to belong to the same mapping: asking for every page would touch all of it.
bool is_writable(std::uintptr_t address, std::size_t bytes);

/// The portable way, without the Linux call that `is_writable` prefers. Unlike that call it is not
/// atomic: a byte that another thread writes at the same moment could keep its old value.
bool is_writable_by_pipe(std::uintptr_t address);

}  // namespace proact
