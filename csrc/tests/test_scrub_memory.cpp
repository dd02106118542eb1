// Tests that the number of threads does not change a sweep over codewords, and that a sweep over
// valid codewords does not write.
#include <sys/mman.h>

#include <vector>

#include "scrub_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

void threads_change_nothing() {
    const SmallCode code(4, 7, false), wide(8, 13, false);
    constexpr std::size_t many = 300007, few = 77;
    std::vector<unsigned char> large = valid_memory(code, many, 1),
                               small = valid_memory(wide, few, 0);
    for (std::size_t i = 0; i < many; i += 1 + (i * 13) % 997)
        large[1 + 4 * i] = static_cast<unsigned char>(large[1 + 4 * i] ^ (i % 5));
    small[8 * 70] = static_cast<unsigned char>(small[8 * 70] ^ 4);
    const std::vector<unsigned char> large_before = large, small_before = small;
    for (const Isa isa : available_isas()) {
        ScrubPlan plan;
        plan.add(coded_memory(large, many, 1, code, 4));
        plan.add(coded_memory(small, few, 0, wide, 2));
        std::vector<unsigned char> large_alone;
        ScrubCounts alone;
        for (const unsigned threads : {1u, 2u, 3u, 8u}) {
            SweepLog log;
            const std::vector<ScrubCounts> counts = plan.scrub(&log, isa, threads);
            if (threads == 1) alone = counts[0], large_alone = large;
            CHECK(counts[0].corrected == alone.corrected && counts[0].detected == alone.detected);
            CHECK(counts[0].corrected > 0 && counts[0].detected > 0);
            CHECK_EQUAL(counts[1].corrected, std::uint64_t{1});
            CHECK(large == large_alone && large != large_before);
            log.restore();
            CHECK(large == large_before && small == small_before);
        }
    }
}

/// The pages are read-only, so a write would crash the test.
void valid_memory_is_only_read() {
    constexpr std::size_t codewords = 100000;
    const SmallCode code(4, 7, false);
    const std::vector<unsigned char> valid = valid_memory(code, codewords, 0);
    void* pages =
        mmap(nullptr, valid.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    std::memcpy(pages, valid.data(), valid.size());
    CHECK_EQUAL(mprotect(pages, valid.size(), PROT_READ), 0);
    ScrubPlan plan;
    plan.add({reinterpret_cast<std::uintptr_t>(pages), codewords, code.native(), 4, 0, {}});
    for (const Isa isa : available_isas()) {
        SweepLog log;
        CHECK_EQUAL(plan.scrub(&log, isa, 1)[0].corrected, std::uint64_t{0});
        log.restore();
    }
    munmap(pages, valid.size());
}

}  // namespace

int main() {
    threads_change_nothing();
    valid_memory_is_only_read();
    return summary();
}
