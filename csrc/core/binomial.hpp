// Binomial sampling from one 64-bit uniform integer, by inversion of the survival function.
//
// The table holds survival[k] = 2^64 P(K > k) as an integer. With u uniform on [0, 2^64),
// the number of entries above u is distributed as K:
//   P(#{k : u < survival[k]} > j) = P(u < survival[j]) = P(K > j).
// The table stores the survival function rather than the distribution function because rare large
// counts then have small integer entries, which are exact, instead of being differences of numbers
// close to 2^64. The entries carry the rounding errors of double arithmetic (1e-15 relative).
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "error_text.hpp"
#include "host_device.hpp"

namespace proact {

/// A non-owning view of a BinomialTable for use in kernels. The table must outlive the view.
struct BinomialView {
    static constexpr int guide_bits = 6;

    const std::uint64_t* survival;  // strictly positive, non-increasing
    const std::uint8_t* guide;      // lower bound of the count, indexed by the top bits of u
    std::uint32_t size;

    PROACT_HOST_DEVICE std::uint32_t count(std::uint64_t u) const {
        std::uint32_t k = guide[u >> (64 - guide_bits)];
        while (k < size && u < survival[k]) ++k;
        return k;
    }
};

class BinomialTable {
   public:
    /// Larger counts have a probability below 2^-64 for every mean up to 32.
    static constexpr std::uint32_t max_count = 128;

    /// Builds the table of Binomial(n, p) for p in [0, 1/2] and a mean n p of at most 32.
    ///
    /// The computation uses only +, * and / on IEEE doubles in a fixed order, so every machine
    /// builds the same table and a seed means the same flips everywhere. It must be compiled
    /// without contraction to fused multiply-add.
    BinomialTable(std::uint64_t n, double p) {
        if (!(p >= 0.0 && p <= 0.5) || static_cast<double>(n) * p > 32.0)
            throw std::invalid_argument(
                "BinomialTable expects p in [0, 1/2] and n p <= 32, got n = " + std::to_string(n) +
                " and p = " + shown(p));
        fill_survival(weights(n, p));
        fill_guide();
    }

    BinomialView view() const {
        return {survival_.data(), guide_.data(), static_cast<std::uint32_t>(survival_.size())};
    }

    const std::vector<std::uint64_t>& survival() const { return survival_; }

   private:
    // Computes P(K = k) up to a common factor from the ratio of neighbouring terms,
    //   P(k + 1) / P(k) = (n - k) / (k + 1) * p / (1 - p).
    // Starting at the mode avoids underflow and needs no power of (1 - p).
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
        for (std::size_t k = weight.size(); k-- > 0;) total += weight[k];  // adds small terms first

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
