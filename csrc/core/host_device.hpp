// The arithmetic in this folder is compiled for the host and, by nvcc, for the device.
#pragma once

#if defined(__CUDACC__)
#define PROACT_HOST_DEVICE __host__ __device__
#else
#define PROACT_HOST_DEVICE
#endif

// A loop becomes vector code only when everything in its body is inlined. clang refuses to hand a
// wide vector to a function of a narrower target even then, so there these functions have the
// target of the loops that a source file is made for.
#if defined(__CUDACC__)
#define PROACT_ELEMENTWISE __host__ __device__ __forceinline__
#elif defined(__clang__) && defined(PROACT_TARGET)
#define PROACT_ELEMENTWISE inline __attribute__((always_inline, target(PROACT_TARGET)))
#else
#define PROACT_ELEMENTWISE inline __attribute__((always_inline))
#endif
