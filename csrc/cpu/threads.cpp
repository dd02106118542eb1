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

void wait_a_little() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/// A thread that has just worked looks for more for a while before it sleeps: waking one takes
/// longer than many of the loops.
constexpr int looks_before_sleep = 4000;

/// More threads than this never make anything faster, and a pool keeps what it has hired.
unsigned most_workers() { return std::max(8u, 2 * std::thread::hardware_concurrency()); }

/// What a round of work is, for all that share it.
struct Round {
    const Body* body;
    std::size_t tasks;
    std::size_t shares;
    std::atomic<std::size_t> unfinished;
    std::mutex failed;
    std::exception_ptr error;

    void work(std::size_t share) {
        try {
            const std::size_t begin = tasks * share / shares, end = tasks * (share + 1) / shares;
            if (begin < end) (*body)(begin, end);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(failed);
            if (!error) error = std::current_exception();
        }
    }
};

/// A thread that does one share of each round that it is given, and is left alone by the others.
class Worker {
   public:
    explicit Worker(std::size_t share) : share_(share) {
        std::thread(&Worker::serve, this).detach();
    }

    void give(Round* round) {
        {
            const std::lock_guard<std::mutex> lock(sleep_);
            round_.store(round, std::memory_order_release);
        }
        wake_.notify_one();
    }

   private:
    void serve() {
        for (;;) {
            for (int looks = 0; round_.load(std::memory_order_acquire) == nullptr; ++looks) {
                if (looks < looks_before_sleep) {
                    wait_a_little();
                    continue;
                }
                std::unique_lock<std::mutex> lock(sleep_);
                wake_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != nullptr; });
            }
            Round* round = round_.exchange(nullptr, std::memory_order_acquire);
            round->work(share_);
            round->unfinished.fetch_sub(1, std::memory_order_release);  // then it may be gone
        }
    }

    const std::size_t share_;
    std::mutex sleep_;
    std::condition_variable wake_;
    std::atomic<Round*> round_{nullptr};
};

class Pool {
   public:
    void run(unsigned wanted, std::size_t tasks, const Body& body) {
        const std::unique_lock<std::mutex> at_work(busy_, std::try_to_lock);
        if (!at_work.owns_lock()) return body(0, tasks);

        const std::size_t workers = hire(std::min(wanted - 1, most_workers()));
        Round round{&body, tasks, workers + 1, {workers}, {}, {}};
        for (std::size_t i = 0; i < workers; ++i) workers_[i]->give(&round);
        round.work(0);
        for (int looks = 0; round.unfinished.load(std::memory_order_acquire) != 0; ++looks)
            looks < looks_before_sleep ? wait_a_little() : std::this_thread::yield();
        if (round.error) std::rethrow_exception(round.error);
    }

   private:
    /// How many workers there are, of the ones wanted.
    std::size_t hire(std::size_t wanted) {
        try {
            while (workers_.size() < wanted)
                workers_.push_back(std::make_unique<Worker>(workers_.size() + 1));
        } catch (const std::system_error&) {  // no more threads to be had: fewer do the work
        }
        return std::min(workers_.size(), wanted);
    }

    std::mutex busy_;
    std::vector<std::unique_ptr<Worker>> workers_;
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
    const auto shares = static_cast<unsigned>(std::min<std::size_t>(threads, tasks));
    if (tasks == 0) return;
    if (shares <= 1) return body(0, tasks);
    the_pool().run(shares, tasks, body);
}

}  // namespace proact
