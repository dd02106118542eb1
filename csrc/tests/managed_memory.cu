// Replaces operator new in tests that run on a GPU: memory that CUDA manages can be read and
// written by the host and by kernels, so that one test body serves both.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

/// Precedes each allocation, and keeps it aligned.
struct alignas(64) Header {
    bool is_managed;
};

/// True within CUDA's own functions, which may allocate too.
thread_local bool is_inside_cuda = false;

void* allocated(std::size_t bytes) {
    void* memory = nullptr;
    const bool is_managed = !is_inside_cuda;
    if (is_managed) {
        is_inside_cuda = true;
        const cudaError_t status = cudaMallocManaged(&memory, sizeof(Header) + bytes);
        is_inside_cuda = false;
        if (status != cudaSuccess) throw std::bad_alloc();
    } else {
        memory = std::aligned_alloc(alignof(Header), (2 * sizeof(Header) + bytes) / 64 * 64);
        if (memory == nullptr) throw std::bad_alloc();
    }
    static_cast<Header*>(memory)->is_managed = is_managed;
    return static_cast<Header*>(memory) + 1;
}

void free_again(void* memory) {
    if (memory == nullptr) return;
    Header* const header = static_cast<Header*>(memory) - 1;
    if (!header->is_managed) return std::free(header);
    const bool was_inside = is_inside_cuda;
    is_inside_cuda = true;
    cudaFree(header);  // fails without harm when the process ends
    is_inside_cuda = was_inside;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocated(bytes); }
void* operator new[](std::size_t bytes) { return allocated(bytes); }
void operator delete(void* memory) noexcept { free_again(memory); }
void operator delete[](void* memory) noexcept { free_again(memory); }
void operator delete(void* memory, std::size_t) noexcept { free_again(memory); }
void operator delete[](void* memory, std::size_t) noexcept { free_again(memory); }
