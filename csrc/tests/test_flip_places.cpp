// Tests flips of given bits: in every number format, across batches, and with invalid lists.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <vector>

#include "guarded_buffer.hpp"

using namespace proact;
using test::GuardedBuffer;
using test::shown;

namespace {

constexpr std::uint64_t words = 601;
constexpr float scales[] = {1.0f, 0x1p-7f, 0.003f};

using Place = std::tuple<std::uint32_t, std::uint64_t, std::uint8_t>;
using Places = std::vector<Place>;

void flip(const FaultPlan& plan, FlipLog& log, const Places& places) {
    std::vector<std::uint32_t> tensor;
    std::vector<std::uint64_t> element;
    std::vector<std::uint8_t> bit;
    for (const auto& [t, e, b] : places) {
        tensor.push_back(t);
        element.push_back(e);
        bit.push_back(b);
    }
    plan.flip_places_into(log, {tensor.data(), element.data(), bit.data(), places.size()});
}

Places places(const FlipLog& log) {
    Places all;
    log.for_each([&](std::size_t tensor, const Flip& flip) {
        all.emplace_back(tensor, flip.element, flip.bit);
    });
    CHECK_EQUAL(all.size(), log.size());
    return all;
}

std::vector<Places> places_of_one_tensor(std::uint32_t bits) {
    std::vector<Places> all;
    std::mt19937 random(bits);
    for (const double chance : {0.002, 0.05, 0.4, 1.0}) {
        std::bernoulli_distribution is_chosen(chance);
        Places& chosen = all.emplace_back();
        for (std::uint64_t e = 0; e < words; ++e) {
            const auto word = static_cast<std::ptrdiff_t>(chosen.size());
            for (std::uint32_t b = 0; b < bits; ++b)
                if (is_chosen(random)) chosen.emplace_back(0, e, b);
            std::shuffle(chosen.begin() + word, chosen.end(), random);  // in any order
        }
    }
    // Flip a whole word at every possible batch end. Start with the highest bit, because a float
    // that lost its last digits to a high bit no longer determines its word.
    for (std::uint64_t ahead = 190; ahead < 260; ++ahead) {
        Places& chosen = all.emplace_back();
        for (std::uint64_t e = 0; e < ahead; ++e) chosen.emplace_back(0, e, e % bits);
        for (std::uint32_t b = bits; b-- > 0;) chosen.emplace_back(0, ahead, b);
        for (std::uint64_t e = ahead + 1; e < words; ++e) chosen.emplace_back(0, e, e % bits);
    }
    return all;
}

/// Compares memory, log and undo with `faulty(word, bits, element)`, applied to one word after
/// another.
template <class Word, class Faulty>
void flips_the_given_bits(const NumberFormat& format, Faulty faulty) {
    GuardedBuffer<Word> buffer(words);
    if (std::is_floating_point_v<Word>)  // every seventh word keeps random bits: NaN, huge or tiny
        for (std::uint64_t i = 0; i < words; ++i)
            if (i % 7 != 0) buffer.data()[i] = static_cast<Word>(3 * std::sin(i));
    const std::vector<Word> clean = buffer.all;
    TensorMemory memory = buffer.memory(1, 1, format);
    memory.mask = ~std::uint64_t{0} >> (64 - memory.stored_bits());
    const FaultPlan plan = test::plan_of({memory});
    for (const Places& given : places_of_one_tensor(memory.stored_bits())) {
        test::context = "format " + shown(format.index()) + ", " + shown(sizeof(Word)) +
                        " bytes, " + shown(given.size()) + " flips";
        FlipLog log;
        flip(plan, log, given);
        CHECK(places(log) == given);

        std::map<std::uint64_t, std::uint64_t> flipped;
        std::vector<Word> expected = clean;
        for (const Flip& flip : test::all_flips(log)) {
            const std::size_t i = GuardedBuffer<Word>::guard + flip.element;
            CHECK(std::memcmp(&flip.before, &expected[i], sizeof(Word)) == 0);
            const std::uint64_t bits = flipped[flip.element] ^= std::uint64_t{1} << flip.bit;
            expected[i] = faulty(clean[i], bits, flip.element);
        }
        CHECK(test::same_bytes(buffer.all, expected));
        log.restore();
        CHECK(test::same_bytes(buffer.all, clean));
    }
    test::context.clear();
}

template <class Word>
void words_of_memory() {
    flips_the_given_bits<Word>(MemoryWords{}, [](Word word, std::uint64_t bits, std::uint64_t) {
        return static_cast<Word>(word ^ bits);
    });
}

template <class Real, class Format>
Real recoded(const Format& format, Real value, std::uint64_t bits) {
    return format.template decode<Real>(format.encode(value) ^ static_cast<std::uint32_t>(bits));
}

template <class Real, class Format>
void words_of(const Format& format) {
    flips_the_given_bits<Real>(format, [&](Real value, std::uint64_t bits, std::uint64_t) {
        return recoded(format, value, bits);
    });
}

template <class Real>
void words_of_channels() {
    const ScaledIntegers format{8, {reinterpret_cast<std::uintptr_t>(scales), 3, 15, 5, 0}};
    flips_the_given_bits<Real>(format, [](Real value, std::uint64_t bits, std::uint64_t element) {
        return recoded(ScaledInteger{scales[element % 15 / 5], 8}, value, bits);
    });
}

struct ReplayTensors {
    GuardedBuffer<std::uint8_t> bytes{900};
    GuardedBuffer<float> fixed{500};
    GuardedBuffer<std::uint32_t> none{0};
    GuardedBuffer<double> doubles{700};

    FaultPlan plan() {
        return test::plan_of({bytes.memory(1, 0xff),
                              fixed.memory(2, 0xffffffff, FixedPoint{32, 16}), none.memory(3, 1),
                              doubles.memory(4, 0xffffffff, StoredFloat{})});
    }
    bool equal(const ReplayTensors& other) const {
        return bytes.all == other.bytes.all && test::same_bytes(fixed.all, other.fixed.all) &&
               none.all == other.none.all && test::same_bytes(doubles.all, other.doubles.all);
    }
};

void drawn_places_can_be_replayed() {
    ReplayTensors tensors;
    const ReplayTensors clean = tensors;
    const FaultPlan plan = tensors.plan();
    const FlipLog drawn = plan.flip(0.1, {test::seed, 2});
    const ReplayTensors faulty = tensors;
    drawn.restore();
    Places given = places(drawn);
    std::sort(given.begin(), given.end());
    FlipLog log;
    flip(plan, log, given);
    CHECK(tensors.equal(faulty));
    CHECK(places(log) == given);
    flip(plan, log, {given.begin(), given.begin() + 1000});  // the same words in a second call
    CHECK(!tensors.equal(faulty));
    CHECK_EQUAL(log.size(), given.size() + 1000);
    log.restore();
    CHECK(tensors.equal(clean));
}

void unread_places_are_only_logged() {
    Places given;
    for (std::uint64_t e = 0; e < words; ++e)
        for (const int b : {6, 0}) given.emplace_back(0, e, b);
    const FaultPlan plan = test::plan_of({{0, words, 1, 1, 0x7f, Unread{7}}});
    FlipLog log;
    flip(plan, log, given);
    CHECK(places(log) == given);
    for (const Flip& flip : test::all_flips(log)) CHECK_EQUAL(flip.before, std::uint64_t{0});
    CHECK_THROWS(std::invalid_argument, flip(plan, log, {{0, 0, 7}}));
}

void places_outside_or_out_of_order_are_rejected() {
    ReplayTensors tensors;
    const ReplayTensors clean = tensors;
    const FaultPlan plan = tensors.plan();
    FlipLog log;
    const auto rejected = [&](const Places& given) {
        test::context.clear();
        for (const auto& [t, e, b] : given)
            test::context += "(" + shown(t) + ", " + shown(e) + ", " + shown(b) + ") ";
        CHECK_THROWS(std::invalid_argument, flip(plan, log, given));
        CHECK(log.calls.empty() && tensors.equal(clean));
        test::context.clear();
    };
    constexpr std::uint64_t beyond32 = std::uint64_t{1} << 32;
    Places outside{{2, 0, 0}, {4, 0, 0}, {~std::uint32_t{0}, 0, 0}, {1, 500, 0}, {3, 700, 0}};
    for (const std::uint64_t element : {std::uint64_t{900}, beyond32, beyond32 + 1, ~beyond32})
        outside.emplace_back(0, element, 0);
    for (const int bit : {8, 63, 255}) outside.emplace_back(0, 1, bit);
    for (const std::uint32_t tensor : {1u, 3u})
        for (const int bit : {32, 63, 255}) outside.emplace_back(tensor, 1, bit);
    for (const Place& place : outside) {
        rejected({place});
        rejected({{0, 0, 0}, {0, 0, 1}, place});
        rejected({place, {3, 699, 31}});
    }
    for (const std::uint32_t tensor : {0u, 1u, 3u})
        rejected({{tensor, 3, 0}, {tensor, 4, 0}, {tensor, 3, 1}});
    rejected({{0, 3, 0}, {3, 3, 0}, {1, 4, 0}});

    flip(plan, log, {{0, 899, 7}, {3, 699, 31}});  // the last valid bits
    CHECK_THROWS(std::invalid_argument, flip(plan, log, {{0, 2, 0}, {0, 1, 0}}));
    CHECK_EQUAL(log.size(), std::size_t{2});
    log.restore();
    CHECK(tensors.equal(clean));
}

void no_places_flip_nothing() {
    ReplayTensors tensors;
    const ReplayTensors clean = tensors;
    const FaultPlan plan = tensors.plan(), empty;
    for (const FaultPlan* each : {&plan, &empty}) {
        FlipLog log;
        each->flip_places_into(log, {nullptr, nullptr, nullptr, 0});
        CHECK(places(log).empty());
        log.restore();
        CHECK(tensors.equal(clean));
    }
}

}  // namespace

int main() {
    words_of_memory<std::uint8_t>();
    words_of_memory<std::uint16_t>();
    words_of_memory<std::uint32_t>();
    words_of_memory<std::uint64_t>();
    words_of<float>(FixedPoint{32, 16});
    words_of<double>(FixedPoint{16, 8});
    words_of_channels<float>();
    words_of_channels<double>();
    words_of<float>(StoredHalf<Float16>{});
    words_of<float>(StoredHalf<BFloat16>{});
    words_of<double>(StoredFloat{});
    drawn_places_can_be_replayed();
    unread_places_are_only_logged();
    places_outside_or_out_of_order_are_rejected();
    no_places_flip_nothing();
    return test::summary();
}
