// The arguments that all CUDA launchers share, and queries about the build. Plain C++, shared by
// the CUDA build and stub.cpp.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace proact::cuda {

/// A failure that CUDA reports, or a call of a build without CUDA. Python sees a ProactError.
class Failure : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
};

/// The device and stream on which work is queued. No function waits for the work; the caller keeps
/// the memory alive until it is done.
struct Stream {
    int device;
    std::uintptr_t handle;  // a cudaStream_t of that device; 0 is its default stream
};

/// False in a build without CUDA, where all other functions in this namespace throw `Failure`.
bool compiled();

/// Returns the version of the CUDA runtime: 13000 for CUDA 13.0.
int runtime_version();

}  // namespace proact::cuda
