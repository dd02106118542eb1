// A pool of threads for loops whose parts share nothing.
#pragma once

#include <cstddef>
#include <functional>

namespace proact {

/// Calls body(begin, end) on contiguous shares of [0, tasks) that together cover it, on at most
/// `threads` threads, the caller's among them. Returns when all are done; rethrows the first
/// exception. A caller that finds the pool at work for another one does its tasks alone.
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
