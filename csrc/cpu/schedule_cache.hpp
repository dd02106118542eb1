// Keeps the schedule of the last bit error rate for the next trial.
#pragma once

#include <memory>
#include <mutex>

namespace proact {

/// A schedule holds the binomial tables of one BER, which take longer to build than a trial takes.
template <class Schedule>
class ScheduleCache {
   public:
    /// Returns the schedule for `ber`, made by `make()` unless the last call had the same BER.
    template <class Make>
    std::shared_ptr<const Schedule> at(double ber, Make make) {
        // Do not wait for the lock: a forked child could wait forever.
        const std::unique_lock<std::mutex> lock(lock_, std::try_to_lock);
        if (!lock.owns_lock()) return make();
        if (schedule_ == nullptr || ber_ != ber) {
            schedule_ = make();
            ber_ = ber;
        }
        return schedule_;
    }

    void clear() { schedule_ = nullptr; }

   private:
    std::mutex lock_;
    double ber_ = 0;
    std::shared_ptr<const Schedule> schedule_;
};

}  // namespace proact
