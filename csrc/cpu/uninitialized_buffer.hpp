#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace proact {

/// A growable buffer that keeps its contents and does not initialize new memory. std::vector would
/// write zeros that are about to be overwritten.
template <class T>
class UninitializedBuffer {
    static_assert(std::is_trivially_copyable_v<T>);

   public:
    UninitializedBuffer() = default;
    UninitializedBuffer(UninitializedBuffer&& other) noexcept { *this = std::move(other); }
    UninitializedBuffer& operator=(UninitializedBuffer&& other) noexcept {
        memory_ = std::move(other.memory_);
        capacity_ = std::exchange(other.capacity_, 0);
        return *this;
    }

    std::size_t capacity() const { return capacity_; }

    void reserve(std::size_t size) {
        if (size <= capacity_) return;
        const std::size_t grown = size + size / 2;
        void* moved = std::realloc(memory_.get(), grown * sizeof(T));
        if (moved == nullptr) throw std::bad_alloc();
        static_cast<void>(memory_.release());
        memory_.reset(static_cast<T*>(moved));
        capacity_ = grown;
    }

    T* data() { return memory_.get(); }
    const T* data() const { return memory_.get(); }

   private:
    struct Free {
        void operator()(T* memory) const { std::free(memory); }
    };
    std::unique_ptr<T, Free> memory_;
    std::size_t capacity_ = 0;
};

}  // namespace proact
