#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace proact {
namespace {

using Body = std::function<void(std::size_t, std::size_t)>;

void spin_pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/// After its work, a thread spins for a while before it sleeps, because waking a thread takes
/// longer than many of the loops.
constexpr int spins_before_sleep = 4000;

/// Upper bound of the pool's size: more threads are never faster, and the pool keeps every thread
/// that it started.
unsigned max_workers() { return std::max(8u, 2 * std::thread::hardware_concurrency()); }

/// The state that the threads of one parallel loop share.
struct ParallelLoop {
    const Body* body;
    std::size_t tasks;
    std::size_t shares;
    std::atomic<std::size_t> unfinished;
    std::mutex error_lock;
    std::exception_ptr error;

    void work(std::size_t share) {
        try {
            const std::size_t begin = tasks * share / shares, end = tasks * (share + 1) / shares;
            if (begin < end) (*body)(begin, end);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(error_lock);
            if (!error) error = std::current_exception();
        }
    }
};

/// A thread that runs one share of each loop assigned to it.
class Worker {
   public:
    explicit Worker(std::size_t share) : share_(share) {
        std::thread(&Worker::serve, this).detach();
    }

    void assign(ParallelLoop* loop) {
        {
            const std::lock_guard<std::mutex> lock(sleep_lock_);
            loop_.store(loop, std::memory_order_release);
        }
        wake_.notify_one();
    }

   private:
    void serve() {
        for (;;) {
            for (int spins = 0; loop_.load(std::memory_order_acquire) == nullptr; ++spins) {
                if (spins < spins_before_sleep) {
                    spin_pause();
                    continue;
                }
                std::unique_lock<std::mutex> lock(sleep_lock_);
                wake_.wait(lock, [&] { return loop_.load(std::memory_order_acquire) != nullptr; });
            }
            ParallelLoop* loop = loop_.exchange(nullptr, std::memory_order_acquire);
            loop->work(share_);
            loop->unfinished.fetch_sub(1, std::memory_order_release);  // then `loop` may be gone
        }
    }

    const std::size_t share_;
    std::mutex sleep_lock_;
    std::condition_variable wake_;
    std::atomic<ParallelLoop*> loop_{nullptr};
};

class Pool {
   public:
    void run(unsigned wanted, std::size_t tasks, const Body& body) {
        const std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
        if (!lock.owns_lock()) return body(0, tasks);

        const std::size_t workers = ensure_workers(std::min(wanted - 1, max_workers()));
        ParallelLoop loop{&body, tasks, workers + 1, {workers}, {}, {}};
        for (std::size_t i = 0; i < workers; ++i) workers_[i]->assign(&loop);
        loop.work(0);
        for (int spins = 0; loop.unfinished.load(std::memory_order_acquire) != 0; ++spins)
            spins < spins_before_sleep ? spin_pause() : std::this_thread::yield();
        if (loop.error) std::rethrow_exception(loop.error);
    }

   private:
    /// Starts missing workers and returns the number available, at most `wanted`.
    std::size_t ensure_workers(std::size_t wanted) {
        try {
            while (workers_.size() < wanted)
                workers_.push_back(std::make_unique<Worker>(workers_.size() + 1));
        } catch (const std::system_error&) {  // continue with fewer threads
        }
        return std::min(workers_.size(), wanted);
    }

    std::mutex busy_;
    std::vector<std::unique_ptr<Worker>> workers_;
};

/// Never destroyed: its threads sleep until the process ends.
Pool* pool = nullptr;

void make_pool() { pool = new Pool; }

Pool& shared_pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        make_pool();
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork(nullptr, nullptr, make_pool);  // a forked child has no workers
#endif
    });
    return *pool;
}

}  // namespace

void parallel_shares(unsigned threads, std::size_t tasks, const Body& body) {
    const auto shares = static_cast<unsigned>(std::min<std::size_t>(threads, tasks));
    if (tasks == 0) return;
    if (shares <= 1) return body(0, tasks);
    shared_pool().run(shares, tasks, body);
}

}  // namespace proact
