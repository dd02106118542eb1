// A binomial count from one 64-bit uniform integer, by a table of the survival function in units of
// 2^-64 (its entries carry the rounding of doubles: 1e-15 relative).
//
// With u uniform on [0, 2^64) and survival[k] = 2^64 P(K > k), the number of entries above u is
// distributed as K: P(#{k : u < survival[k]} > j) = P(u < survival[j]) = P(K > j).
// Storing the survival function, not the distribution function, keeps the rare large counts exact:
// they are small integers, not differences of numbers close to 2^64.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "host_device.hpp"

namespace proact {

/// What a kernel needs of a BinomialTable; the table outlives it.
struct BinomialView {
    static constexpr int guide_bits = 6;

    const std::uint64_t* survival;  // strictly positive, not increasing
    const std::uint8_t* guide;      // a lower bound of the count, by the top bits of u
    std::uint32_t size;

    PROACT_HOST_DEVICE std::uint32_t count(std::uint64_t u) const {
        std::uint32_t k = guide[u >> (64 - guide_bits)];
        while (k < size && u < survival[k]) ++k;
        return k;
    }
};

class BinomialTable {
   public:
    /// Counts above this have probability below 2^-64 for every mean up to 32.
    static constexpr std::uint32_t max_count = 128;

    /// Binomial(n, p) for p in [0, 1/2] and a mean n p of at most 32.
    ///
    /// Only +, * and / of IEEE doubles are used, in a fixed order, so that every machine builds the
    /// same table and a seed means the same flips everywhere (compile without contraction to FMA).
    BinomialTable(std::uint64_t n, double p) {
        if (!(p >= 0.0 && p <= 0.5) || static_cast<double>(n) * p > 32.0)
            throw std::invalid_argument("BinomialTable takes p in [0, 1/2] and n p <= 32");
        fill_survival(weights(n, p));
        fill_guide();
    }

    BinomialView view() const {
        return {survival_.data(), guide_.data(), static_cast<std::uint32_t>(survival_.size())};
    }

    const std::vector<std::uint64_t>& survival() const { return survival_; }

   private:
    // P(K = k) up to a common factor, by the ratio of neighbours
    //   P(k + 1) / P(k) = (n - k) / (k + 1) * p / (1 - p),
    // starting at the mode so that nothing underflows and no power of (1 - p) is needed.
    static std::vector<double> weights(std::uint64_t n, double p) {
        const double trials = static_cast<double>(n);
        const double odds = p / (1.0 - p);
        const auto mode = static_cast<std::uint32_t>((trials + 1.0) * p);

        std::vector<double> weight(mode + 1);
        weight[mode] = 1.0;
        for (std::uint32_t k = mode; k > 0; --k)
            weight[k - 1] = weight[k] * static_cast<double>(k) /
                            ((trials - static_cast<double>(k) + 1.0) * odds);
        for (std::uint32_t k = mode; k < n && k < max_count; ++k)
            weight.push_back(weight[k] * ((trials - static_cast<double>(k)) * odds) /
                             (static_cast<double>(k) + 1.0));
        return weight;
    }

    void fill_survival(const std::vector<double>& weight) {
        constexpr double two_to_64 = 18446744073709551616.0;
        constexpr std::uint64_t largest = ~std::uint64_t{0};
        double total = 0.0;
        for (std::size_t k = weight.size(); k-- > 0;) total += weight[k];  // small terms first

        survival_.assign(weight.size() - 1, 0);
        std::uint64_t above = 0;
        for (std::size_t k = weight.size() - 1; k > 0; --k) {
            const double scaled = weight[k] / total * two_to_64;
            const std::uint64_t mass =
                scaled >= two_to_64 ? largest : static_cast<std::uint64_t>(scaled);
            above = mass > largest - above ? largest : above + mass;
            survival_[k - 1] = above;
        }
        while (!survival_.empty() && survival_.back() == 0) survival_.pop_back();
    }

    void fill_guide() {
        for (std::size_t bucket = 0; bucket < guide_.size(); ++bucket) {
            const std::uint64_t largest_u =
                ((static_cast<std::uint64_t>(bucket) + 1) << (64 - BinomialView::guide_bits)) - 1;
            std::uint8_t k = 0;
            while (k < survival_.size() && largest_u < survival_[k]) ++k;
            guide_[bucket] = k;
        }
    }

    std::vector<std::uint64_t> survival_;
    std::array<std::uint8_t, std::size_t{1} << BinomialView::guide_bits> guide_{};
};

}  // namespace proact
