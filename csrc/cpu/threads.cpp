#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace proact {
namespace {

using Body = std::function<void(std::size_t, std::size_t)>;

void wait_a_little() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/// Idle threads look for work for a while before they sleep: waking one takes longer than many of
/// the loops.
constexpr int looks_before_sleep = 4000;

constexpr unsigned most_shares = 0xffff;

class Pool {
   public:
    void run(unsigned wanted, std::size_t tasks, const Body& body) {
        const std::unique_lock<std::mutex> at_work(busy_, std::try_to_lock);
        if (!at_work.owns_lock()) return body(0, tasks);

        const unsigned shares = 1 + hire(wanted - 1);
        tasks_ = tasks;
        body_ = &body;
        error_ = nullptr;
        unfinished_.store(shares - 1, std::memory_order_relaxed);
        {
            const std::lock_guard<std::mutex> lock(sleep_);
            const std::uint64_t previous = round_.load(std::memory_order_relaxed);
            round_.store(((previous >> 16) + 1) << 16 | shares, std::memory_order_release);
        }
        wake_.notify_all();

        work(0, shares);
        for (int looks = 0; unfinished_.load(std::memory_order_acquire) != 0; ++looks)
            looks < looks_before_sleep ? wait_a_little() : std::this_thread::yield();
        if (error_) std::rethrow_exception(error_);
    }

   private:
    /// How many workers there are, of the ones wanted.
    unsigned hire(unsigned workers) {
        try {
            for (; hired_ < workers; ++hired_)
                std::thread(&Pool::serve, this, hired_ + 1, round_.load(std::memory_order_relaxed))
                    .detach();
        } catch (const std::system_error&) {  // no more threads to be had: fewer do the work
        }
        return std::min(hired_, workers);
    }

    void serve(unsigned share, std::uint64_t seen) {
        for (;;) {
            for (int looks = 0; round_.load(std::memory_order_acquire) == seen; ++looks) {
                if (looks < looks_before_sleep) {
                    wait_a_little();
                    continue;
                }
                std::unique_lock<std::mutex> lock(sleep_);
                wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
            }
            seen = round_.load(std::memory_order_acquire);
            const auto shares = static_cast<unsigned>(seen & most_shares);
            if (share < shares) {
                work(share, shares);
                unfinished_.fetch_sub(1, std::memory_order_release);
            }
        }
    }

    void work(unsigned share, std::size_t shares) {
        try {
            const std::size_t begin = tasks_ * share / shares, end = tasks_ * (share + 1) / shares;
            if (begin < end) (*body_)(begin, end);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(failed_);
            if (!error_) error_ = std::current_exception();
        }
    }

    std::mutex busy_, sleep_, failed_;
    std::condition_variable wake_;
    /// The number of the round, and in the low 16 bits how many threads share it: in one word,
    /// because a thread that a round does not need may look when the next one is being prepared.
    std::atomic<std::uint64_t> round_{0};
    std::atomic<unsigned> unfinished_{0};
    std::size_t tasks_ = 0;
    const Body* body_ = nullptr;
    std::exception_ptr error_;
    unsigned hired_ = 0;
};

/// Never destroyed: its threads sleep until the process ends.
Pool* pool = nullptr;

void make_pool() { pool = new Pool; }

Pool& the_pool() {
    static std::once_flag once;
    std::call_once(once, [] {
        make_pool();
#if defined(__unix__) || defined(__APPLE__)
        pthread_atfork(nullptr, nullptr, make_pool);  // a forked child has none of the threads
#endif
    });
    return *pool;
}

}  // namespace

void parallel_shares(unsigned threads, std::size_t tasks, const Body& body) {
    const auto shares = static_cast<unsigned>(std::min<std::size_t>({threads, tasks, most_shares}));
    if (tasks == 0) return;
    if (shares <= 1) return body(0, tasks);
    the_pool().run(shares, tasks, body);
}

}  // namespace proact
