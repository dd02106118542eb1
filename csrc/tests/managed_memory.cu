// Replaces operator new in tests that run on a GPU: memory that CUDA manages can be read and
// written by the host and by kernels, so that one test body serves both.
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

namespace {

enum class Kind { host, managed, piece };

/// Precedes each allocation, and keeps it aligned.
struct alignas(64) Header {
    Kind kind;
};

constexpr std::size_t largest_piece = 1024, chunk_bytes = std::size_t{1} << 20;

/// True within CUDA's own functions, which may allocate too.
thread_local bool is_inside_cuda = false;

void* managed(std::size_t bytes) {
    void* memory = nullptr;
    const bool was_inside = is_inside_cuda;
    is_inside_cuda = true;
    const cudaError_t status = cudaMallocManaged(&memory, bytes);
    is_inside_cuda = was_inside;
    if (status != cudaSuccess) throw std::bad_alloc();
    return memory;
}

/// Part of a managed chunk, which is never freed: one mapping for each node of a large map would be
/// more than a process may have.
void* piece(std::size_t bytes) {
    static std::mutex mutex;
    static char* chunk = nullptr;
    static std::size_t left = 0;
    const std::lock_guard<std::mutex> lock(mutex);
    if (bytes > left) {
        chunk = static_cast<char*>(managed(chunk_bytes));
        left = chunk_bytes;
    }
    left -= bytes;
    return chunk + left;
}

void* allocated(std::size_t bytes) {
    const std::size_t all = (2 * sizeof(Header) - 1 + bytes) / sizeof(Header) * sizeof(Header);
    const Kind kind = is_inside_cuda         ? Kind::host
                      : all <= largest_piece ? Kind::piece
                                             : Kind::managed;
    void* const memory = kind == Kind::host      ? std::aligned_alloc(alignof(Header), all)
                         : kind == Kind::managed ? managed(all)
                                                 : piece(all);
    if (memory == nullptr) throw std::bad_alloc();
    static_cast<Header*>(memory)->kind = kind;
    return static_cast<Header*>(memory) + 1;
}

void free_again(void* memory) {
    if (memory == nullptr) return;
    Header* const header = static_cast<Header*>(memory) - 1;
    if (header->kind == Kind::host) std::free(header);
    if (header->kind != Kind::managed) return;
    const bool was_inside = is_inside_cuda;
    is_inside_cuda = true;
    cudaFree(header);
    is_inside_cuda = was_inside;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocated(bytes); }
void* operator new[](std::size_t bytes) { return allocated(bytes); }
void operator delete(void* memory) noexcept { free_again(memory); }
void operator delete[](void* memory) noexcept { free_again(memory); }
void operator delete(void* memory, std::size_t) noexcept { free_again(memory); }
void operator delete[](void* memory, std::size_t) noexcept { free_again(memory); }
