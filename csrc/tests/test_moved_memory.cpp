// Tests that memory is asked whether it can be written without changing it, and that logs restore
// words where their memory is now and nowhere else.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "../cpu/flips.hpp"
#include "../cpu/writable.hpp"
#include "range_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

constexpr std::size_t page = 4096;

std::uintptr_t address_of(const void* memory) { return reinterpret_cast<std::uintptr_t>(memory); }

void writable_memory_is_found_and_unchanged() {
    std::vector<unsigned char> bytes(3 * page);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 7);
    const std::vector<unsigned char> before = bytes;
    for (std::size_t first = 0; first < 9; ++first)
        for (const std::size_t size : {std::size_t{1}, std::size_t{2}, page}) {
            CHECK(is_writable(address_of(bytes.data() + first), size));
            CHECK(is_writable_by_pipe(address_of(bytes.data() + first)));
        }
    CHECK(bytes == before);
    CHECK(is_writable(0, 0));
}

void other_memory_is_not() {
    void* const pages =
        mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    const std::uintptr_t begin = address_of(pages);
    CHECK(is_writable(begin, 2 * page));
    CHECK_EQUAL(mprotect(static_cast<char*>(pages) + page, page, PROT_READ), 0);
    CHECK(is_writable(begin, page));
    CHECK(!is_writable(begin, 2 * page));
    CHECK(!is_writable(begin + page, 1));
    CHECK(!is_writable_by_pipe(begin + page));
    CHECK_EQUAL(munmap(pages, 2 * page), 0);
    CHECK(!is_writable(begin, page));
    CHECK(!is_writable_by_pipe(begin));
    CHECK(!is_writable(0, 8));
}

/// Two tensors: the first moves, and the second is gone.
void flips_are_restored_where_the_memory_is() {
    constexpr std::uint64_t words = 3000;
    std::vector<std::uint32_t> moving(words, 5), gone(words, 6);
    FaultPlan plan;
    for (std::vector<std::uint32_t>* tensor : {&moving, &gone})
        plan.add(
            {address_of(tensor->data()), words, 4, tensor == &moving ? 1u : 2u, 0xffffffff, {}});
    for (const unsigned threads : {1u, 3u}) {
        FlipLog log = plan.flip(0.02, {1, threads}, {chosen_isa(), threads});
        CHECK(log.tensors() == (std::vector<std::size_t>{0, 1}));
        std::vector<std::uint32_t> now = moving;
        const std::vector<std::uint32_t> left = moving, faulty = gone;
        log.relocate({{address_of(moving.data()), 4 * words, address_of(now.data())},
                      {address_of(gone.data()), 4 * words, 0}});
        log.restore(threads);
        CHECK(now == std::vector<std::uint32_t>(words, 5));
        CHECK(moving == left);
        CHECK(gone == faulty);
        std::fill(moving.begin(), moving.end(), 5u);
        std::fill(gone.begin(), gone.end(), 6u);
    }
}

void tensors_without_flips_are_not_listed() {
    std::vector<std::uint32_t> words(100);
    FaultPlan plan;
    plan.add({address_of(words.data()), 100, 4, 1, 0xffffffff, {}});
    CHECK(plan.flip(0.0, {1, 1}).tensors().empty());
}

/// Two neighbours in one buffer, whose saved bytes are adjacent, move to different places.
void swept_words_are_restored_where_the_memory_is() {
    constexpr std::size_t elements = 50;
    std::vector<float> both(2 * elements, 9.0f), first(elements), second(elements);
    const Bounds<float> bounds{{-1}, {1}, 1};
    RangePlan plan;
    plan.add(memory_of(both.data(), elements, bounds));
    plan.add(memory_of(both.data() + elements, elements, bounds));
    SweepLog log;
    plan.sweep_into(log, RangeAction::zero, chosen_isa(), 1);
    CHECK(both == std::vector<float>(2 * elements, 0.0f));
    const std::uint64_t bytes = elements * sizeof(float);
    log.relocate({{address_of(both.data()), bytes, address_of(second.data())},
                  {address_of(both.data() + elements), bytes, address_of(first.data())}});
    log.restore();
    CHECK(first == std::vector<float>(elements, 9.0f));
    CHECK(second == std::vector<float>(elements, 9.0f));
    CHECK(both == std::vector<float>(2 * elements, 0.0f));
    log.relocate({{address_of(first.data()), bytes, 0}});
    std::fill(first.begin(), first.end(), 1.0f);
    log.restore();
    CHECK(first == std::vector<float>(elements, 1.0f));
}

}  // namespace

int main() {
    writable_memory_is_found_and_unchanged();
    other_memory_is_not();
    flips_are_restored_where_the_memory_is();
    tensors_without_flips_are_not_listed();
    swept_words_are_restored_where_the_memory_is();
    return summary();
}
