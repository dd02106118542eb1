// The arithmetic in this folder is compiled for the host and, by nvcc, for the device.
#pragma once

#if defined(__CUDACC__)
#define PROACT_HOST_DEVICE __host__ __device__
#else
#define PROACT_HOST_DEVICE
#endif

// A loop becomes vector code only when everything in its body is inlined.
#if defined(__CUDACC__)
#define PROACT_ELEMENTWISE __host__ __device__ __forceinline__
#else
#define PROACT_ELEMENTWISE inline __attribute__((always_inline))
#endif
