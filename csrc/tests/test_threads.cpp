// Tests the thread pool: every task runs once; exceptions; concurrent callers; forked children.
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../cpu/threads.hpp"
#include "check.hpp"

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace proact;

namespace {

bool does_every_task_once(unsigned threads, std::size_t tasks) {
    std::vector<std::atomic<int>> done(tasks);
    parallel_for(threads, tasks, [&](std::size_t task) { ++done[task]; });
    for (const auto& count : done)
        if (count != 1) return false;
    return true;
}

void every_task_is_done_once() {
    for (const unsigned threads : {0u, 1u, 2u, 3u, 8u})
        for (const std::size_t tasks : {0u, 1u, 2u, 7u, 1000u})
            for (int again = 0; again < 50; ++again) CHECK(does_every_task_once(threads, tasks));
}

void an_exception_reaches_the_caller() {
    for (const std::size_t failing : {0u, 5u, 99u}) {
        const auto body = [&](std::size_t task) {
            if (task == failing) throw std::runtime_error("task failed");
        };
        CHECK_THROWS(std::runtime_error, parallel_for(4, 100, body));
    }
    CHECK(does_every_task_once(4, 100));
}

void concurrent_callers_are_independent() {
    std::atomic<int> failures{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller)
        callers.emplace_back([&] {
            for (int again = 0; again < 200; ++again)
                if (!does_every_task_once(3, 50)) ++failures;
        });
    for (std::thread& caller : callers) caller.join();
    CHECK_EQUAL(failures.load(), 0);
}

/// Data loader workers fork like this.
void a_forked_child_has_a_pool_of_its_own() {
#if defined(__unix__)
    const pid_t child = fork();
    if (child == 0) _exit(does_every_task_once(4, 100) ? 0 : 1);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQUAL(status, 0);
#endif
}

}  // namespace

int main() {
    every_task_is_done_once();
    an_exception_reaches_the_caller();
    concurrent_callers_are_independent();
    a_forked_child_has_a_pool_of_its_own();
    return test::summary();
}
