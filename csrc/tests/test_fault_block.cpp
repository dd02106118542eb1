// Tests the draw of one block: distinct, in range, reproducible, independent of other blocks, and
// uniform.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../cpu/block_drawer.hpp"
#include "check.hpp"

using namespace proact;

namespace {

using Positions = std::vector<std::uint32_t>;

constexpr FaultStream fault{0x0123456789abcdefu, 7, 0xabcdef012345u};

/// Draws with the reference and with the drawer of every instruction set, which must agree.
Positions draw(const BlockLaw& law, const FaultStream& from, std::uint32_t block,
               std::uint32_t first_draw = 0) {
    const DrawnPositions drawn = draw_block(law, from, block, first_draw);
    SeenFilter seen;
    for (const Isa isa : available_isas()) {
        BlockDrawer drawer(law, from, batch_functions(isa), seen, first_draw);
        std::uint32_t expected = 0;
        for (int twice = 0; twice < 2; ++twice) {
            expected = 0;
            CHECK_EQUAL(drawer.draw(block, [&](std::uint32_t) { ++expected; }), drawn.count);
            CHECK(std::equal(drawn.begin(), drawn.end(), drawer.positions()));
        }
        CHECK_EQUAL(expected, drawn.count);
    }
    return {drawn.begin(), drawn.end()};
}

void positions_are_distinct_and_in_range() {
    const struct {
        std::uint32_t words_log2, bits_per_word;
        double p;
    } cases[] = {{0, 64, 0.5}, {0, 32, 0.5},   {0, 1, 0.5},    {0, 3, 0.49},
                 {4, 7, 0.25}, {10, 24, 1e-3}, {24, 64, 2e-8}, {24, 37, 4e-8}};
    for (const auto& c : cases) {
        const std::uint32_t bits = c.bits_per_word << c.words_log2;
        const BinomialTable table(bits, c.p);
        const BlockLaw law{c.words_log2, c.bits_per_word, false, table.view()};
        CHECK_EQUAL(law.bits(), bits);
        std::uint64_t total = 0;
        for (std::uint32_t block = 0; block < 2000; ++block) {
            Positions positions = draw(law, fault, block);
            BlockRandomWords words(fault, block);
            CHECK_EQUAL(positions.size(), std::size_t{table.view().count(words.next64())});
            total += positions.size();
            std::sort(positions.begin(), positions.end());
            CHECK(std::adjacent_find(positions.begin(), positions.end()) == positions.end());
            CHECK(positions.empty() || positions.back() < bits);
        }
        CHECK(total > 0);
    }
}

void a_draw_depends_on_its_key_only() {
    const BinomialTable table(32 * 512, 1e-3);
    const BlockLaw law{9, 32, false, table.view()};
    const Positions positions = draw(law, fault, 5);
    CHECK(!positions.empty());
    CHECK(draw(law, fault, 5) == positions);

    FaultStream other = fault;
    other.trial ^= 1;
    CHECK(draw(law, other, 5) != positions);
    CHECK(draw(law, fault, 4) != positions);
    CHECK(draw(law, fault, 5, 512) != positions);
    // Both halves of the seed and of the stream matter.
    for (const int bit : {0, 31, 32, 63}) {
        other = fault;
        other.seed ^= std::uint64_t{1} << bit;
        CHECK(draw(law, other, 5) != positions);
    }
    for (const int bit : {0, 31, 32, stream_bits - 1}) {
        other = fault;
        other.stream ^= std::uint64_t{1} << bit;
        CHECK(draw(law, other, 5) != positions);
    }
}

void blocks_hold_at_most_32_expected_draws() {
    const double probabilities[] = {0.5, 0.3, 0.1, 0.01, 1e-3, 1e-4, 1e-6, 1e-9, 5e-324, 0.0};
    for (const std::uint32_t bits : {1u, 5u, 8u, 16u, 23u, 32u, 64u})
        for (const std::uint64_t words :
             {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{3}, std::uint64_t{1000},
              std::uint64_t{1} << 20, (std::uint64_t{1} << 20) + 1, std::uint64_t{1} << 32}) {
            std::uint32_t previous = 0;
            for (const double p : probabilities) {
                test::context = test::shown(bits) + " bits, " + test::shown(words) +
                                " words, p = " + test::shown(p);
                const std::uint32_t log2 = block_words_log2(p, bits, words);
                const double expected = p * std::ldexp(bits, static_cast<int>(log2));
                CHECK(expected <= 32.0);
                CHECK(log2 >= previous);
                CHECK(log2 <= 24);
                CHECK(log2 == 0 || (std::uint64_t{1} << (log2 - 1)) < words);
                const bool enough = log2 == 24 || (std::uint64_t{1} << log2) >= words;
                CHECK(enough || expected > 16.0);
                previous = log2;
            }
            CHECK_EQUAL(block_words_log2(0.5, 64, words), 0u);
        }
    test::context.clear();
}

double chi_square(const std::vector<std::uint64_t>& counts, double expected, double variance) {
    double sum = 0.0;
    for (const std::uint64_t count : counts)
        sum += (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected);
    return sum / variance;
}

void below_is_uniform() {
    constexpr std::uint32_t draws = 600000;
    BlockRandomWords words(fault, 0);
    std::vector<std::uint64_t> counts(7, 0);
    for (std::uint32_t i = 0; i < draws; ++i) {
        const std::uint32_t value = words.below(UniformBelow(7));
        CHECK(value < 7);
        ++counts[value % 7];
    }
    CHECK(chi_square(counts, draws / 7.0, draws / 7.0) < 27.86);  // 0.9999 quantile, 6 degrees

    // Multiplication without rejection would give every third value twice as often.
    constexpr std::uint32_t range = 3u << 30;
    std::vector<std::uint64_t> residues(3, 0);
    for (std::uint32_t i = 0; i < draws; ++i) {
        const std::uint32_t value = words.below(UniformBelow(range));
        CHECK(value < range);
        ++residues[value % 3];
    }
    CHECK(chi_square(residues, draws / 3.0, draws / 3.0) < 18.42);  // 0.9999 quantile, 2 degrees
    CHECK_EQUAL(words.below(UniformBelow(1)), 0u);
}

/// Every bit flips independently with probability p, so each trial has variance p (1 - p).
void every_position_is_equally_likely() {
    constexpr std::uint32_t blocks = 40000;
    constexpr double p = 0.1;
    const BinomialTable table(24 * 4, p);
    const BlockLaw law{2, 24, false, table.view()};
    std::vector<std::uint64_t> counts(law.bits(), 0);
    for (std::uint32_t block = 0; block < blocks; ++block)
        for (const std::uint32_t position : draw(law, fault, block)) ++counts[position];
    CHECK(chi_square(counts, blocks * p, blocks * p * (1 - p)) < 156.26);  // 96 degrees, 0.9999
}

/// The marks of the filter wrap around after 2^16 blocks.
void a_drawer_forgets_earlier_blocks() {
    const BinomialTable table(64, 0.5);
    const BlockLaw law{0, 64, false, table.view()};
    SeenFilter seen;
    BlockDrawer drawer(law, fault, batch_functions(chosen_isa()), seen);
    for (std::uint32_t block = 0; block < 140000; ++block) {
        const std::uint32_t count = drawer.draw(block, [](std::uint32_t) {});
        const DrawnPositions drawn = draw_block(law, fault, block);
        CHECK(drawn.count == count && std::equal(drawn.begin(), drawn.end(), drawer.positions()));
    }
}

}  // namespace

int main() {
    a_drawer_forgets_earlier_blocks();
    positions_are_distinct_and_in_range();
    a_draw_depends_on_its_key_only();
    blocks_hold_at_most_32_expected_draws();
    below_is_uniform();
    every_position_is_equally_likely();
    return test::summary();
}
