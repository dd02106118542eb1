// Tests the table of the binomial survival function and the counts drawn from it.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include "../core/binomial.hpp"
#include "check.hpp"

using namespace proact;

namespace {

struct Law {
    std::uint64_t n;
    double p;
};

const std::vector<Law> laws = {{1, 0.5},
                               {1, 1e-9},
                               {2, 0.25},
                               {7, 0.3},
                               {32, 0.5},
                               {64, 0.5},
                               {64, 0.499},
                               {320, 0.1},
                               {1000, 0.032},
                               {4096, 1e-3},
                               {std::uint64_t{1} << 20, 32.0 / (1 << 20)},
                               {100, 1e-300},
                               {64, 5e-324},
                               {std::uint64_t{1} << 30, 32.0 / (1 << 30)},
                               {24, 1e-6},
                               {999983, 3e-5}};

constexpr std::uint64_t largest = ~std::uint64_t{0};

/// Bound for the sum of the masses below 2^-64, which the table truncates to 0. They decrease so
/// fast that it stays below this.
constexpr std::size_t cut_off = 2;

/// Computes 2^64 P(K > k) upwards from P(K = 0) = (1 - p)^n, whereas the table starts at the mode.
std::vector<long double> survival_from_zero(const Law& law) {
    const auto n = static_cast<long double>(law.n);
    const auto p = static_cast<long double>(law.p);
    std::vector<long double> mass = {std::exp(n * std::log1p(-p))};
    for (std::uint64_t k = 0; k < std::min<std::uint64_t>(law.n, 300); ++k) {
        const auto i = static_cast<long double>(k);
        mass.push_back(mass.back() * (n - i) / (i + 1) * (p / (1 - p)));
    }
    std::vector<long double> survival(mass.size(), 0.0L);  // the last entry is 0
    for (std::size_t k = mass.size() - 1; k > 0; --k)
        survival[k - 1] = survival[k] + mass[k] * 0x1p64L;
    return survival;
}

std::uint32_t entries_above(const std::vector<std::uint64_t>& survival, std::uint64_t u) {
    return static_cast<std::uint32_t>(
        std::count_if(survival.begin(), survival.end(), [u](std::uint64_t s) { return s > u; }));
}

/// Each rounding of a double has a relative error of 1e-16, and each added mass has lost its
/// fraction. Entries near 2^64 may therefore be off by thousands, but the small entries of rare
/// counts only by a few units.
void check_survival(std::uint64_t entry, long double exact, std::size_t masses) {
    const long double error = std::fabs(static_cast<long double>(entry) - exact);
    CHECK(error <= 2e-15L * exact + static_cast<long double>(masses));
}

void table_is_the_survival_function() {
    for (const Law& law : laws) {
        test::context = "n = " + test::shown(law.n) + ", p = " + test::shown(law.p);
        const std::vector<std::uint64_t> survival = BinomialTable(law.n, law.p).survival();
        const std::vector<long double> exact = survival_from_zero(law);
        CHECK(survival.size() < exact.size());
        CHECK(survival.size() <= BinomialTable::max_count);
        CHECK(std::is_sorted(survival.rbegin(), survival.rend()));
        for (std::size_t k = 0; k < survival.size(); ++k) {
            CHECK(survival[k] > 0);
            check_survival(survival[k], std::min(exact[k], 0x1p64L), survival.size() - k + cut_off);
        }
        CHECK(exact[survival.size()] < static_cast<long double>(cut_off));
    }
    test::context.clear();
}

/// For Binomial(64, 1/2), 2^64 P(K > k) is an integer: a sum of binomial coefficients.
void fair_coins_match_integers() {
    const std::vector<std::uint64_t> survival = BinomialTable(64, 0.5).survival();
    std::vector<long double> choose = {1.0L};  // at most 1.8e18, hence exact
    for (int k = 0; k < 64; ++k)
        choose.push_back(choose.back() * static_cast<long double>(64 - k) /
                         static_cast<long double>(k + 1));
    long double above = 0.0L;
    for (std::size_t k = 64; k > 0; --k) {
        above += choose[k];
        if (k - 1 < survival.size())
            check_survival(survival[k - 1], above, 64 - k + 1);
        else
            CHECK(above < static_cast<long double>(cut_off));
    }
}

void count_is_the_number_of_entries_above() {
    std::mt19937_64 random(20240613);
    for (const Law& law : laws) {
        test::context = "n = " + test::shown(law.n) + ", p = " + test::shown(law.p);
        const BinomialTable table(law.n, law.p);
        const std::vector<std::uint64_t>& survival = table.survival();
        std::vector<std::uint64_t> uniforms = {0, 1, largest - 1, largest};
        for (const std::uint64_t entry : survival)
            for (const std::uint64_t u : {entry - 1, entry, entry + 1}) uniforms.push_back(u);
        for (int i = 0; i < 20000; ++i) uniforms.push_back(random() >> (i % 64));
        for (const std::uint64_t u : uniforms)
            CHECK_EQUAL(table.view().count(u), entries_above(survival, u));
        CHECK(table.view().count(0) <= law.n);
    }
    test::context.clear();
}

/// A guide that starts too low only costs time, so tests of the counts would not detect it.
void guide_is_the_count_of_its_largest_u() {
    for (const Law& law : laws) {
        const BinomialTable table(law.n, law.p);
        constexpr int shift = 64 - BinomialView::guide_bits;
        for (std::uint64_t bucket = 0; bucket < std::uint64_t{1} << BinomialView::guide_bits;
             ++bucket) {
            const std::uint64_t largest_u = bucket << shift | (largest >> (64 - shift));
            CHECK_EQUAL(std::uint32_t{table.view().guide[bucket]},
                        entries_above(table.survival(), largest_u));
        }
    }
}

void nothing_is_drawn_at_probability_zero() {
    for (const std::uint64_t n : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1} << 30})
        for (const double p : {0.0, -0.0}) {
            const BinomialTable table(n, p);
            CHECK(table.survival().empty());
            for (const std::uint64_t u : {std::uint64_t{0}, largest})
                CHECK_EQUAL(table.view().count(u), 0u);
        }
}

void bad_laws_are_rejected() {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    for (const double p : {std::nextafter(0.5, 1.0), 0.75, 1.0, 2.0, infinity, -infinity, -1e-9,
                           std::numeric_limits<double>::quiet_NaN()})
        CHECK_THROWS(std::invalid_argument, BinomialTable(10, p));
    CHECK_THROWS(std::invalid_argument, BinomialTable(65, 0.5));
    CHECK_THROWS(std::invalid_argument,
                 BinomialTable(1 << 20, std::nextafter(32.0, 33.0) / (1 << 20)));
}

}  // namespace

int main() {
    table_is_the_survival_function();
    fair_coins_match_integers();
    count_is_the_number_of_entries_above();
    guide_is_the_count_of_its_largest_u();
    nothing_is_drawn_at_probability_zero();
    bad_laws_are_rejected();
    return test::summary();
}
