// Tests flips in floats whose stored form is fixed point.
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "guarded_buffer.hpp"

using namespace proact;
using test::GuardedBuffer;

namespace {

/// Weights, some of which fixed point cannot represent exactly; restoring must recover them.
template <class Real>
GuardedBuffer<Real> weights(std::size_t size) {
    using Limits = std::numeric_limits<Real>;
    GuardedBuffer<Real> buffer(size);
    std::mt19937 random(static_cast<std::uint32_t>(size));
    std::normal_distribution<double> normal(0.0, 3.0);
    for (std::size_t i = 0; i < size; ++i) buffer.data()[i] = static_cast<Real>(normal(random));
    const Real odd[] = {Limits::quiet_NaN(),  Limits::infinity(), -Limits::infinity(), -Real{0},
                        Limits::denorm_min(), Limits::max(),      Limits::lowest(),    Real(0.1)};
    if (size >= 1000)
        for (std::size_t i = 0; i < std::size(odd); ++i) buffer.data()[100 * i + 7] = odd[i];
    return buffer;
}

std::uint64_t word_mask(const FixedPoint& fixed) { return fixed.word_mask(); }

/// All flips of a word act on the stored word of the clean float.
template <class Real>
void flips_act_on_the_stored_word(std::size_t size, const FixedPoint& fixed, std::uint64_t mask,
                                  double ber) {
    GuardedBuffer<Real> buffer = weights<Real>(size);
    const std::vector<Real> clean = buffer.all;
    const FaultPlan plan = test::plan_of({buffer.memory(9, mask, fixed)});
    const FlipLog log = plan.flip(ber, {test::seed, 4});
    const std::vector<Real> faulty = buffer.all;
    CHECK(test::distinct_and_exposed(test::places(test::all_flips(log)), size, mask));

    std::map<std::uint64_t, std::uint32_t> flipped;
    for (const Flip& flip : test::all_flips(log)) {
        // The logged old word is the memory word, not the stored word. At the first flip of a word
        // it is the clean one.
        if (flipped.count(flip.element) == 0) {
            std::uint64_t before = 0;
            std::memcpy(&before, &clean[GuardedBuffer<Real>::guard + flip.element], sizeof(Real));
            CHECK_EQUAL(flip.before, before);
        }
        flipped[flip.element] ^= std::uint32_t{1} << flip.bit;
    }
    std::vector<Real> expected = clean;
    for (const auto& [element, bits] : flipped) {
        Real& value = expected[GuardedBuffer<Real>::guard + element];
        value = fixed.decode<Real>(fixed.encode(value) ^ bits);
    }
    CHECK(test::same_bytes(faulty, expected));
    if (ber == 1.0) {
        CHECK_EQUAL(flipped.size(), size);
        for (const auto& [element, bits] : flipped) CHECK_EQUAL(std::uint64_t{bits}, mask);
    }

    log.restore();
    CHECK(test::same_bytes(buffer.all, clean));
    CHECK_EQUAL(plan.flip_unlogged(ber, {test::seed, 4}), std::uint64_t{log.size()});
    CHECK(test::same_bytes(buffer.all, faulty));
}

template <class Real>
void restore_survives_overwriting() {
    GuardedBuffer<Real> buffer = weights<Real>(1000);
    std::vector<Real> expected = buffer.all;
    const FixedPoint fixed{32, 16};
    const FlipLog log =
        test::plan_of({buffer.memory(9, word_mask(fixed), fixed)}).flip(0.02, {test::seed, 1});
    std::map<std::uint64_t, bool> flipped;
    for (const Flip& flip : test::all_flips(log)) flipped[flip.element] = true;
    CHECK(!flipped.empty() && flipped.size() < buffer.size);
    for (std::size_t i = 0; i < buffer.size; ++i) {
        buffer.data()[i] = Real(-77);
        if (!flipped[i]) expected[GuardedBuffer<Real>::guard + i] = Real(-77);
    }
    log.restore();
    CHECK(test::same_bytes(buffer.all, expected));
}

template <class Real>
void all_formats() {
    for (const FixedPoint& fixed : {FixedPoint{32, 16}, FixedPoint{32, 31}, FixedPoint{32, 0},
                                    FixedPoint{16, 8}, FixedPoint{8, 4}, FixedPoint{2, 1}})
        for (const std::uint64_t mask :
             {word_mask(fixed), std::uint64_t{1} << (fixed.word_bits - 1), std::uint64_t{1}})
            for (const std::size_t size : {1u, 3u, 1000u, 4097u})
                for (const double ber : {0.0, 1e-3, 0.02, 0.3, 0.7, 1.0}) {
                    test::context = test::shown(sizeof(Real)) + " bytes, word bits " +
                                    test::shown(fixed.word_bits) + ", fraction bits " +
                                    test::shown(fixed.fraction_bits) + ", mask " +
                                    test::shown(mask) + ", " + test::shown(size) + " words, ber " +
                                    test::shown(ber);
                    flips_act_on_the_stored_word<Real>(size, fixed, mask, ber);
                }
    test::context.clear();
}

}  // namespace

int main() {
    all_formats<float>();
    all_formats<double>();
    restore_survives_overwriting<float>();
    restore_survives_overwriting<double>();
    return test::summary();
}
