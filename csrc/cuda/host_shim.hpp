// Runs the kernels' source on the host, for tests only: it replaces the nvcc part of launch.cuh and
// defines CUDA's keywords in plain C++. Blocks run one after another, so shared memory can be
// static. If a kernel uses barriers, the threads of a block are operating system threads with a
// real barrier, and a thread sanitizer detects missing barriers. Otherwise they run one after
// another.
//
// The shim does not reveal errors that depend on warps or on the kinds of memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "launch.cuh"

#define __global__
#define __device__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(threads)

namespace proact::cuda {

/// Small, because each thread is an operating system thread.
constexpr unsigned reduction_threads = 16;

struct Index {
    unsigned x;
};

inline thread_local Index threadIdx{0}, blockIdx{0}, blockDim{1}, gridDim{1};

class BlockBarrier {
   public:
    enum class WaitPoint { within, at_end };

    explicit BlockBarrier(unsigned threads) : threads_(threads) {}

    /// Aborts if threads of one block wait at different barriers, which is undefined on a device.
    void wait(WaitPoint point) {
        const unsigned phase = phase_;
        if (point == WaitPoint::at_end) ++at_end_;
        if (++arrived_ == threads_) {
            if (at_end_ != 0 && at_end_ != threads_) {
                std::fprintf(stderr,
                             "expected all threads of a block at the same barrier, got some at the "
                             "end of the kernel\n");
                std::abort();
            }
            at_end_ = 0;
            arrived_ = 0;
            ++phase_;
        } else {
            while (phase_ == phase) std::this_thread::yield();  // four times as fast as sleeping
        }
    }

   private:
    const unsigned threads_;
    std::atomic<unsigned> arrived_{0}, at_end_{0}, phase_{0};
};

inline thread_local BlockBarrier* block_barrier = nullptr;

inline void __syncthreads() {
    if (block_barrier == nullptr) {
        std::fprintf(stderr,
                     "expected Barriers::used for a kernel with barriers, got Barriers::none\n");
        std::abort();
    }
    block_barrier->wait(BlockBarrier::WaitPoint::within);
}

inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

template <class... Parameters, class... Arguments>
void launch(const char* what, void (*kernel)(Parameters...), const Grid& grid, Stream,
            const Arguments&... arguments) {
    check_size(grid, what);
    const auto blocks = static_cast<unsigned>(grid.blocks);
    const auto run = [&](unsigned block, unsigned thread) {
        gridDim.x = blocks;
        blockDim.x = grid.threads;
        blockIdx.x = block;
        threadIdx.x = thread;
        kernel(arguments...);
    };
    if (grid.barriers == Barriers::none) {
        for (unsigned block = 0; block < blocks; ++block)
            for (unsigned thread = 0; thread < grid.threads; ++thread) run(block, thread);
        return;
    }
    BlockBarrier barrier(grid.threads);
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < grid.threads; ++thread)
        threads.emplace_back([&, thread] {
            block_barrier = &barrier;
            for (unsigned block = 0; block < blocks; ++block) {
                run(block, thread);
                barrier.wait(BlockBarrier::WaitPoint::at_end);
            }
        });
    for (std::thread& thread : threads) thread.join();
}

inline void fill_with_zero_bytes(const char*, void* memory, std::size_t bytes, Stream) {
    if (bytes != 0) std::memset(memory, 0, bytes);
}

inline int version_of_runtime() { return 0; }

}  // namespace proact::cuda
