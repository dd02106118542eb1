// A thread pool for loops whose iterations are independent.
#pragma once

#include <cstddef>
#include <functional>

namespace proact {

/// Calls body(begin, end) on contiguous shares that together cover [0, tasks), on at most `threads`
/// threads including the caller. Returns when all shares are done and rethrows the first exception.
/// If another caller is using the pool, the calling thread runs all tasks itself.
void parallel_shares(unsigned threads, std::size_t tasks,
                     const std::function<void(std::size_t begin, std::size_t end)>& body);

/// Calls body(task) for every task in [0, tasks): see parallel_shares.
template <class Body>
void parallel_for(unsigned threads, std::size_t tasks, const Body& body) {
    const auto share = [&](std::size_t begin, std::size_t end) {
        for (std::size_t task = begin; task < end; ++task) body(task);
    };
    if (threads <= 1 || tasks <= 1)
        share(0, tasks);
    else
        parallel_shares(threads, tasks, share);
}

}  // namespace proact
