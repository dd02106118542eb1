// Macros that compile the arithmetic in this folder for the host and, with nvcc, for the device.
#pragma once

#if defined(__CUDACC__)
#define PROACT_HOST_DEVICE __host__ __device__
#else
#define PROACT_HOST_DEVICE
#endif

// Compilers vectorize a loop only if they inline everything in its body. clang refuses to pass a
// wide vector to a function with a narrower target even if it is inlined, so under clang these
// functions take the target of the including source file.
#if defined(__CUDACC__)
#define PROACT_ELEMENTWISE __host__ __device__ __forceinline__
#elif defined(__clang__) && defined(PROACT_TARGET)
#define PROACT_ELEMENTWISE inline __attribute__((always_inline, target(PROACT_TARGET)))
#else
#define PROACT_ELEMENTWISE inline __attribute__((always_inline))
#endif
