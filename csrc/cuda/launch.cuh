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
        throw Failure(std::string(what) + ": expected at most " + std::to_string(max_blocks) +
                      " blocks for one launch, got " + std::to_string(grid.blocks));
}

}  // namespace proact::cuda

#if defined(__CUDACC__)

#include <cuda_runtime_api.h>

namespace proact::cuda {

/// The block size of kernels that reduce in shared memory.
constexpr unsigned reduction_threads = 256;

/// What to do about an error; empty if the error does not tell.
inline const char* remedy(cudaError_t status) {
    switch (status) {
        case cudaErrorInsufficientDriver:
        case cudaErrorUnsupportedPtxVersion:
            return ": the NVIDIA driver is older than the CUDA version that proact was built with, "
                   "so update the driver or build proact with an older nvcc";
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorInvalidDeviceFunction:
            return ": this build of proact has no code for this GPU, so build proact again with "
                   "CUDAARCHS set to the compute capability of the GPU, such as 75";
        case cudaErrorNoDevice: return ": there is no GPU, so move the tensors to the CPU";
        case cudaErrorMemoryAllocation:
            return ": the memory of the GPU is used up, so use smaller batches or a smaller model";
        default: return "";
    }
}

inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // clear the error: the next caller of the runtime must not see it again
    throw Failure(std::string(what) + " failed with " + cudaGetErrorName(status) + " (" +
                  cudaGetErrorString(status) + ")" + remedy(status));
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

/// Queues a kernel. A grid without blocks is ignored. Throws Failure with a message that
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
#ifdef PROACT_WAIT_FOR_KERNELS  // tests read the memory at once
    check(cudaDeviceSynchronize(), what);
#endif
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
