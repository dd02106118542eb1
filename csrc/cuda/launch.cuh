// Kernel launches, the only part of CUDA's host interface that is used. The kernels and launchers
// in this folder compile with nvcc for the device and, for the tests, with any C++ compiler, where
// host_shim.hpp replaces this interface.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "runtime.hpp"

namespace proact::cuda {

/// Whether the threads of a kernel use barriers. Only the host shim uses this.
enum class Barriers { none, used };

/// The numbers of blocks and of threads per block.
struct Grid {
    std::uint64_t blocks;
    unsigned threads;
    Barriers barriers = Barriers::none;
};

/// Returns a grid with one thread per independent work item.
inline Grid grid_over(std::uint64_t work, unsigned threads) {
    return {work / threads + (work % threads != 0), threads};
}

inline void check_size(const Grid& grid, const char* what) {
    constexpr std::uint64_t max_blocks = 0x7fffffff;  // limit of gridDim.x on every device
    if (grid.blocks > max_blocks)
        throw std::runtime_error(std::string(what) + ": expected at most " +
                                 std::to_string(max_blocks) + " blocks for one launch, got " +
                                 std::to_string(grid.blocks));
}

}  // namespace proact::cuda

#if defined(__CUDACC__)

#include <cuda_runtime_api.h>

namespace proact::cuda {

/// The block size of kernels that reduce in shared memory.
constexpr unsigned reduction_threads = 256;

inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // clear the error: the next caller of the runtime must not see it again
    throw std::runtime_error(std::string(what) + ": CUDA reported " + cudaGetErrorName(status) +
                             " (" + cudaGetErrorString(status) + ")");
}

/// Makes a device current and restores the previous one at the end of the scope.
class CurrentDevice {
   public:
    CurrentDevice(int device, const char* what) {
        check(cudaGetDevice(&previous_), what);
        // Setting a device creates its context, so avoid it if possible.
        if (device == previous_) return;
        check(cudaSetDevice(device), what);
        changed_ = true;
    }
    ~CurrentDevice() {
        if (changed_) cudaSetDevice(previous_);
    }
    CurrentDevice(const CurrentDevice&) = delete;
    CurrentDevice& operator=(const CurrentDevice&) = delete;

   private:
    int previous_ = 0;
    bool changed_ = false;
};

/// Queues a kernel. A grid without blocks is ignored. Throws std::runtime_error with a message that
/// starts with `what`, a description of the operation.
template <class... Parameters, class... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), const Grid& grid, Stream stream,
            const Arguments&... arguments) {
    if (grid.blocks == 0) return;
    check_size(grid, what);
    const CurrentDevice device(stream.device, what);
    kernel<<<static_cast<unsigned>(grid.blocks), grid.threads, 0,
             reinterpret_cast<cudaStream_t>(stream.handle)>>>(arguments...);
    check(cudaGetLastError(), what);
}

inline void fill_with_zero_bytes(const char* what, void* memory, std::size_t bytes, Stream stream) {
    if (bytes == 0) return;
    const CurrentDevice device(stream.device, what);
    check(cudaMemsetAsync(memory, 0, bytes, reinterpret_cast<cudaStream_t>(stream.handle)), what);
}

inline int version_of_runtime() {
    int version = 0;
    check(cudaRuntimeGetVersion(&version), "querying the version of the CUDA runtime");
    return version;
}

}  // namespace proact::cuda

#else
#include "host_shim.hpp"
#endif
