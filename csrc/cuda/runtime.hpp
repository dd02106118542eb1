// What every CUDA launcher needs from its caller, and whether there are any. Plain C++: the same
// for the real build and for stub.cpp.
#pragma once

#include <cstdint>

namespace proact::cuda {

/// Where work is queued. Nothing here waits for it; memory must live until the work is done.
struct Stream {
    int device;
    std::uintptr_t handle;  // a cudaStream_t of that device; 0 is its default stream
};

/// False in a build without CUDA, where every other function of this namespace throws
/// std::runtime_error.
bool compiled();

/// 13000 for CUDA 13.0.
int runtime_version();

}  // namespace proact::cuda
