// Tests that any number of threads and every instruction set make the same flips in the same order.
#include <cstdint>
#include <limits>
#include <vector>

#include "guarded_buffer.hpp"

using namespace proact;
using test::GuardedBuffer;

namespace {

struct ThreadedTensors {
    GuardedBuffer<std::uint32_t> large{40001};
    GuardedBuffer<std::uint8_t> bytes{30000};
    GuardedBuffer<float> fixed{20001};
    GuardedBuffer<std::uint64_t> none{0};
    GuardedBuffer<std::uint64_t> small{7};

    FaultPlan plan() {
        for (std::size_t i = 0; i < fixed.size; ++i)
            fixed.data()[i] = static_cast<float>(i % 1000) * 0.37f - 160.0f;
        return test::plan_of({large.memory(1, 0xffffffff), bytes.memory(2, 0x5f),
                              fixed.memory(3, 0xffffffff, FixedPoint{32, 16}), none.memory(4, 1),
                              small.memory(5, ~std::uint64_t{0})});
    }
    bool equal(const ThreadedTensors& other) const {
        return large.all == other.large.all && bytes.all == other.bytes.all &&
               test::same_bytes(fixed.all, other.fixed.all) && small.all == other.small.all;
    }
};

bool same_flips(const FlipLog& a, const FlipLog& b) {
    const auto mine = test::all_flips(a), theirs = test::all_flips(b);
    return mine.size() == theirs.size() &&
           std::equal(mine.begin(), mine.end(), theirs.begin(), [](const Flip& x, const Flip& y) {
               return x.element == y.element && x.bit == y.bit && x.before == y.before;
           });
}

void threads_change_nothing(double ber) {
    ThreadedTensors tensors;
    const FaultPlan plan = tensors.plan();
    const ThreadedTensors clean = tensors;
    const FlipLog expected = plan.flip(ber, {test::seed, 5}, {Isa::baseline, 1});
    const ThreadedTensors faulty = tensors;
    expected.restore();
    CHECK(tensors.equal(clean));
    for (const Isa isa : available_isas())
        for (const unsigned threads : {1u, 2u, 3u, 8u}) {
            test::context =
                name(isa) + ", threads " + test::shown(threads) + ", ber " + test::shown(ber);
            const Execution execution{isa, threads};
            const FlipLog log = plan.flip(ber, {test::seed, 5}, execution);
            CHECK(same_flips(log, expected));
            CHECK(tensors.equal(faulty));
            log.restore(threads);
            CHECK(tensors.equal(clean));
            CHECK_EQUAL(plan.flip_unlogged(ber, {test::seed, 5}, execution),
                        std::uint64_t{expected.size()});
            CHECK(tensors.equal(faulty));
            log.restore();
        }
    test::context.clear();
}

}  // namespace

int main() {
    for (const double ber : {1e-6, 1e-3, 0.05, 0.9}) threads_change_nothing(ber);
    return test::summary();
}
