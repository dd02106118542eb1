// Tests that the drawn codewords equal the flips of a plan of plain tensors, sorted into codewords,
// for any number of threads and every instruction set.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "../cpu/codeword_draws.hpp"
#include "guarded_buffer.hpp"

using namespace proact;
using test::shown;

namespace {

constexpr std::uint64_t no_singles = ~std::uint64_t{0};
constexpr std::uint64_t all64 = ~std::uint64_t{0};

using Place = std::tuple<std::uint32_t, std::uint64_t, std::uint32_t>;
using Places = std::vector<Place>;

/// Words, codewords and check words of every kind: large and small, with and without a check word
/// or exposed words, with tails and single words.
/// High BERs use less.
std::vector<CodedTensor> tensors(std::uint32_t corrects, std::uint64_t share = 1) {
    std::vector<CodedTensor> all{
        {300001, 1, 0xffffffff, 32, 1, corrects, 0, 0, no_singles},
        {40000, 2, 0xffffffff, 32, 1, corrects, 3, 0x7f, no_singles},
        {70003, 4, 0xff, 8, 8, corrects, 5, 0xff, no_singles},
        {20013, 6, 0xffff, 16, 4, corrects, 0, 0, 20012},
        {0, 7, 1, 1, 1, corrects, 8, 1, no_singles},
        {90001, 9, 0x3, 2, 64, corrects, 10, all64, no_singles},
        {5000, 11, 0, 32, 2, corrects, 12, 0x15, no_singles},
        {5000, 13, 0, 32, 2, corrects, 14, 0, no_singles},
        {7, 15, all64, 64, 16, corrects, 16, 1, no_singles},
        {30000, 17, 0x7f800000, 32, 2, corrects, 18, all64, no_singles},
        {1, 19, 1, 191, 1, corrects, 20, all64, 0},
    };
    for (CodedTensor& tensor : all) {
        tensor.elements = (tensor.elements + share - 1) / share;
        if (tensor.singles != no_singles && tensor.singles != 0)
            tensor.singles = tensor.elements / tensor.words * tensor.words;
    }
    return all;
}

CodewordPlan plan_of(const std::vector<CodedTensor>& tensors) {
    CodewordPlan plan;
    for (const CodedTensor& tensor : tensors) plan.add(tensor);
    return plan;
}

std::vector<Flip> plain_flips(std::uint64_t words, std::uint64_t stream, std::uint64_t mask,
                              double ber, FaultPattern pattern) {
    if (mask == 0) return {};
    return test::all_flips(
        test::plan_of({{0, words, 1, stream, mask, Unread{64}}}).flip(ber, pattern));
}

struct Expected {
    Places places;
    std::uint64_t flips = 0;
    std::uint64_t dropped = 0;
};

Expected expected(const std::vector<CodedTensor>& tensors, double ber, FaultPattern pattern) {
    Expected result;
    for (std::uint32_t i = 0; i < tensors.size(); ++i) {
        const CodedTensor& t = tensors[i];
        std::map<std::uint64_t, Places> codewords;
        for (const Flip& flip : plain_flips(t.elements, t.stream, t.mask, ber, pattern))
            codewords[flip.element / t.words].emplace_back(i, flip.element, flip.bit);
        for (const Flip& flip :
             plain_flips(t.codewords(), t.check_stream, t.check_mask, ber, pattern))
            codewords[flip.element].emplace_back(i, std::uint64_t{flip.element} * t.words,
                                                 flip.bit + t.word_bits);
        for (auto& [number, places] : codewords) {
            result.flips += places.size();
            if (places.size() > t.corrects || number * t.words >= t.singles) {
                std::sort(places.begin(), places.end());
                result.places.insert(result.places.end(), places.begin(), places.end());
            } else {
                ++result.dropped;
            }
        }
    }
    return result;
}

Places places(const CodewordFlips& flips) {
    Places all;
    CHECK_EQUAL(flips.tensor.size(), flips.element.size());
    CHECK_EQUAL(flips.tensor.size(), flips.bit.size());
    for (std::size_t i = 0; i < flips.tensor.size(); ++i)
        all.emplace_back(flips.tensor[i], flips.element[i], flips.bit[i]);
    return all;
}

void draws_equal_sorted_flips(double ber) {
    for (const std::uint32_t corrects : {0u, 1u, 2u, 3u, 1000u}) {
        const std::vector<CodedTensor> coded = tensors(corrects, ber < 0.01 ? 1 : 50);
        const CodewordPlan plan = plan_of(coded);
        const Expected right = expected(coded, ber, {test::seed, 7});
        for (const Isa isa : available_isas())
            for (const unsigned threads : {1u, 2u, 3u, 8u}) {
                test::context = name(isa) + ", threads " + shown(threads) + ", ber " + shown(ber) +
                                ", corrects " + shown(corrects);
                const CodewordFlips drawn = plan.draw(ber, {test::seed, 7}, {isa, threads});
                CHECK(places(drawn) == right.places);
                CHECK_EQUAL(drawn.flips, right.flips);
                CHECK_EQUAL(drawn.dropped, right.dropped);
            }
    }
    test::context.clear();
}

/// The filter of hits is cleared after 2^15 chunks. At this BER a chunk is one word, so that a mark
/// that survived would make a codeword look as if it was hit twice, which must change nothing.
void many_chunks_are_kept_apart() {
    const std::vector<CodedTensor> coded{{40000, 1, all64, 64, 1, 31, 0, 0, no_singles}};
    const FaultPattern pattern{test::seed, 1};
    const Expected right = expected(coded, 0.5, pattern);
    const CodewordFlips drawn = plan_of(coded).draw(0.5, pattern);
    CHECK(!right.places.empty() && right.dropped > 0);
    CHECK(places(drawn) == right.places);
    CHECK_EQUAL(drawn.dropped, right.dropped);
}

void a_plan_follows_its_ber_and_its_tensors() {
    CodewordPlan plan;
    CHECK(plan.draw(0.1, {1, 1}).flips == 0);
    std::vector<CodedTensor> coded;
    for (const CodedTensor& tensor : tensors(1, 10)) {
        coded.push_back(tensor);
        plan.add(tensor);
        for (const double ber : {0.01, 0.001, 0.0, 0.01})
            CHECK(places(plan.draw(ber, {1, 1})) == expected(coded, ber, {1, 1}).places);
    }
}

/// Elements near 2^32 fit neither the counters of blocks nor of codewords in fewer bits.
void the_largest_tensors_are_counted_right() {
    constexpr std::uint64_t largest = std::uint64_t{1} << 32;
    for (const std::uint32_t words : {1u, 16u}) {
        const std::vector<CodedTensor> coded{
            {largest, 1, 0xf, 32, words, 0, 2, 0xff, no_singles},
            {largest, 3, 0x1, 32, words, 1, 4, 0xff, largest - 1024 * 1024 * words}};
        const Expected right = expected(coded, 3e-7, {test::seed, 1});
        const CodewordFlips drawn = plan_of(coded).draw(3e-7, {test::seed, 1});
        CHECK(places(drawn) == right.places);
        CHECK_EQUAL(drawn.flips, right.flips);
        CHECK_EQUAL(drawn.dropped, right.dropped);
        CHECK(std::get<1>(right.places.back()) > largest - 1024 * 1024 * words);
    }
}

void bad_input_is_rejected() {
    const CodedTensor good{100, 1, 0xff, 8, 4, 1, 2, 0xff, no_singles};
    CodewordPlan plan;
    const auto rejected = [&](auto change) {
        CodedTensor tensor = good;
        change(tensor);
        CHECK_THROWS(std::invalid_argument, plan.add(tensor));
    };
    for (const std::uint32_t words : {0u, 3u, 5u, 128u})
        rejected([&](CodedTensor& t) { t.words = words; });
    for (const std::uint32_t bits : {0u, 7u, 192u})
        rejected([&](CodedTensor& t) { t.word_bits = bits; });
    for (const std::uint64_t singles : {1u, 97u, 99u})
        rejected([&](CodedTensor& t) { t.singles = singles; });
    rejected([](CodedTensor& t) { t.stream = std::uint64_t{1} << 48; });
    rejected([](CodedTensor& t) { t.check_stream = std::uint64_t{1} << 48; });
    rejected([](CodedTensor& t) { t.elements = (std::uint64_t{1} << 32) + 1; });
    CHECK(plan.draw(0.5, {1, 1}).flips == 0);
    for (const double ber : {-0.1, 0.5000001, 1.0, std::numeric_limits<double>::quiet_NaN()})
        CHECK_THROWS(std::invalid_argument, plan.draw(ber, {1, 1}));
}

}  // namespace

int main() {
    for (const double ber : {0.0, 1e-6, 1e-5, 1e-3, 0.02, 0.3, 0.5}) draws_equal_sorted_flips(ber);
    many_chunks_are_kept_apart();
    a_plan_follows_its_ber_and_its_tensors();
    the_largest_tensors_are_counted_right();
    bad_input_is_rejected();
    return test::summary();
}
