// Divides work among threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace proact {

/// A list of ranges of tasks, divided into contiguous parts of equal cost. A Range has members
/// `begin` and `end`; costs are in units of one flip.
template <class Range>
class EqualParts {
   public:
    /// Adds a range whose tasks cost `each`.
    void add(const Range& range, double each) {
        if (range.begin == range.end) return;
        entries_.push_back({range, each});
        cost_ += whole(entries_.back());
    }

    /// Returns the number of parts for which each part takes longer than waking a thread.
    std::size_t parts(unsigned threads) const {
        constexpr double min_cost_per_thread = 8192;
        return std::max<std::size_t>(
            1,
            std::min<std::size_t>(threads, static_cast<std::size_t>(cost_ / min_cost_per_thread)));
    }

    /// Visits the ranges of part number `part`.
    template <class Visit>
    void for_each_range(std::size_t part, std::size_t parts, Visit visit) const {
        if (parts == 1) {
            for (const Entry& entry : entries_) visit(entry.range);
            return;
        }
        const auto cut = [&](std::size_t i) {
            return i == parts ? 2 * cost_
                              : cost_ * static_cast<double>(i) / static_cast<double>(parts);
        };
        double passed = 0;
        for (const Entry& entry : entries_) {
            const auto tasks_below = [&](double limit) {
                return static_cast<std::uint64_t>(
                    std::clamp((limit - passed) / entry.each, 0.0, tasks(entry)));
            };
            Range range = entry.range;
            range.end = entry.range.begin + tasks_below(cut(part + 1));
            range.begin = entry.range.begin + tasks_below(cut(part));
            passed += whole(entry);
            if (range.begin != range.end) visit(range);
        }
    }

   private:
    struct Entry {
        Range range;
        double each;
    };

    static double tasks(const Entry& entry) {
        return static_cast<double>(entry.range.end - entry.range.begin);
    }
    static double whole(const Entry& entry) { return tasks(entry) * entry.each; }

    std::vector<Entry> entries_;
    double cost_ = 0;
};

}  // namespace proact
