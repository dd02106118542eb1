// Tests that the number of threads does not change a sweep, and that a sweep without repairs does
// not write.
#include <sys/mman.h>

#include <vector>

#include "range_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

void threads_change_nothing() {
    const std::vector<float> faults = faulty_values<float>();
    std::vector<float> large(200003), small(77);
    fill_healthy(large.data(), large.size(), 1);
    fill_healthy(small.data(), small.size(), 2);
    for (std::size_t i = 0; i < large.size(); i += 1 + (i * 13) % 997)
        large[i] = faults[i % faults.size()];
    small[70] = 8;
    const Bounds<float> one{{-1}, {1}, 1}, many{{-1, -0.5f, 0.25f}, {1, 0.5f, 0.75f}, 67};
    const std::vector<float> large_before = large, small_before = small;
    for (const Bounds<float>& bounds : {one, many})
        for (const Isa isa : available_isas()) {
            RangePlan plan;
            plan.add(memory_of(large.data(), large.size(), bounds));
            plan.add(memory_of(small.data(), small.size(), one));
            std::vector<std::uint64_t> repairs_alone;
            std::vector<float> large_alone;
            for (const unsigned threads : {1u, 2u, 3u, 8u}) {
                SweepLog log;
                const auto repairs = plan.sweep_into(log, RangeAction::saturate, isa, threads);
                if (threads == 1) repairs_alone = repairs, large_alone = large;
                CHECK(repairs == repairs_alone);
                CHECK_EQUAL(repairs[1], std::uint64_t{1});
                CHECK(same_bytes(large, large_alone));
                CHECK(!same_bytes(large, large_before));
                log.restore();
                CHECK(same_bytes(large, large_before) && same_bytes(small, small_before));
            }
        }
}

/// The pages are read-only, so a write would crash the test.
void memory_within_range_is_only_read() {
    constexpr std::size_t elements = 100000;
    void* pages = mmap(nullptr, elements * sizeof(float), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    auto* x = static_cast<float*>(pages);
    fill_healthy(x, elements, 4);
    CHECK_EQUAL(mprotect(pages, elements * sizeof(float), PROT_READ), 0);
    const Bounds<float> bounds{{-1}, {1}, 1};
    RangePlan plan;
    plan.add(memory_of(x, elements, bounds));
    for (const Isa isa : available_isas()) {
        SweepLog log;
        CHECK_EQUAL(plan.sweep_into(log, RangeAction::zero, isa, 1)[0], std::uint64_t{0});
        log.restore();
    }
    munmap(pages, elements * sizeof(float));
}

}  // namespace

int main() {
    threads_change_nothing();
    memory_within_range_is_only_read();
    return summary();
}
