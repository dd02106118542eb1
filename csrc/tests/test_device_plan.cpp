// Tests that a plan of tensors on the device equals the plan on the host bit for bit. The kernels
// run on the host: csrc/cuda/host_shim.hpp.
#include <cstdint>
#include <vector>

#include "../cuda/device_plan.hpp"
#include "../cuda/flip_rate.cpp"
#include "../cuda/flips.cu"
#include "guarded_buffer.hpp"

using namespace proact;
using test::GuardedBuffer;

namespace {

constexpr cuda::Stream stream{0, 0};
/// Follows the memory of a trial and must not change.
constexpr std::uint64_t guard = 0x5a5a5a5a5a5a5a5au;

/// Made by the first call: on a GPU, memory of CUDA must not be allocated before main.
const std::vector<float>& scales() {
    static const std::vector<float> all = {0.25f, 2.0f, 1e-3f};
    return all;
}

std::uintptr_t address_of(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

struct DeviceTensors {
    GuardedBuffer<std::uint32_t> words{3001};
    GuardedBuffer<std::uint64_t> none{0};
    GuardedBuffer<std::uint8_t> bytes{777};
    GuardedBuffer<float> fixed{500};
    GuardedBuffer<double> scaled{300};

    std::vector<TensorMemory> memory() {
        for (std::size_t i = 0; i < fixed.size; ++i)
            fixed.data()[i] = static_cast<float>(i) * 0.37f - 60.0f;
        for (std::size_t i = 0; i < scaled.size; ++i)
            scaled.data()[i] = static_cast<double>(i) * 0.3 - 40.0;
        const Scales rows{address_of(scales().data()), scales().size(), 100, 100, 1};
        return {words.memory(1, 0xffffffff),
                none.memory(2, 1),
                bytes.memory(3, 0x3c),
                fixed.memory(4, 0xffffffff, FixedPoint{32, 16}),
                scaled.memory(5, 0xff, ScaledIntegers{8, rows}),
                none.memory(6, 1)};
    }
    bool equal(const DeviceTensors& other) const {
        return words.all == other.words.all && bytes.all == other.bytes.all &&
               test::same_bytes(fixed.all, other.fixed.all) &&
               test::same_bytes(scaled.all, other.scaled.all);
    }
};

/// The same tensors for the host and for the device, and what they held at first.
struct Both {
    DeviceTensors on_host, on_device, clean;
    FaultPlan host;
    cuda::DevicePlan device;

    Both() {
        for (const TensorMemory& memory : on_host.memory()) host.add(memory);
        for (const TensorMemory& memory : on_device.memory()) device.add(memory);
        clean = on_device;
        CHECK_EQUAL(device.exposed_bits(), host.exposed_bits());
    }
    std::uintptr_t tensors() const { return address_of(device.described().data()); }
};

void check_log(const FlipLog& log, const cuda::FlipRate& rate, const cuda::DevicePlan& plan,
               const std::vector<std::uint64_t>& memory) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(memory.data());
    for (std::size_t tensor = 0; tensor < rate.laws().size(); ++tensor) {
        const cuda::DeviceLaw& law = rate.laws()[tensor];
        const auto expected = test::flips_of(log, tensor);
        std::size_t flip = 0;
        for (std::uint64_t block = 0; block < law.blocks; ++block) {
            std::uint32_t count;
            std::memcpy(&count, bytes + law.counts + 4 * block, sizeof count);
            for (std::uint64_t slot = block * law.slots; count > 0; --count, ++slot) {
                std::uint32_t element;
                std::memcpy(&element, bytes + law.element + 4 * slot, sizeof element);
                std::uint64_t before = 0;
                const std::uint32_t word_bytes = plan.word_bytes(tensor);
                std::memcpy(&before, bytes + law.before + word_bytes * slot, word_bytes);
                CHECK(flip < expected.size());
                CHECK_EQUAL(element, expected[flip].element);
                CHECK_EQUAL(std::uint32_t{bytes[law.bit + slot]}, expected[flip].bit);
                CHECK_EQUAL(before, expected[flip].before);
                ++flip;
            }
        }
        CHECK_EQUAL(flip, expected.size());
    }
}

void drawn_flips_equal_the_host(double ber, bool is_logged) {
    Both both;
    const cuda::FlipRate rate = both.device.rate(ber);
    std::vector<std::uint64_t> memory(rate.bytes(is_logged) / 8 + 1, guard);
    std::memset(memory.data(), 0, rate.bytes_to_clear());
    const cuda::TrialMemory trial{address_of(rate.tables().data()), address_of(memory.data()),
                                  is_logged};
    cuda::flip(both.tensors(), rate, {test::seed, 9}, trial, stream);
    const FlipLog log = both.host.flip(ber, {test::seed, 9});
    CHECK(both.on_device.equal(both.on_host));
    CHECK_EQUAL(both.device.flips(rate, {test::seed, 9}), std::uint64_t{log.size()});
    const std::vector<std::uint32_t> hit = both.device.hit(rate, {test::seed, 9});
    const auto hit_on_host = log.tensors();
    CHECK(std::equal(hit.begin(), hit.end(), hit_on_host.begin(), hit_on_host.end()));
    CHECK_EQUAL(memory.back(), guard);
    if (!is_logged) return;
    check_log(log, rate, both.device, memory);
    cuda::restore(both.tensors(), rate, trial, stream);
    CHECK(both.on_device.equal(both.clean));
}

/// The flips of a trial on the host, given as places.
void given_flips_equal_the_host(double ber) {
    Both both;
    std::vector<std::uint32_t> tensor, element, first;
    std::vector<std::uint64_t> before;
    std::vector<std::uint8_t> bit;
    FlipLog drawn = both.host.flip(ber, {test::seed, 4});
    drawn.restore(1);
    std::vector<std::uint64_t> element_of_host;
    for (std::uint32_t number = 0; number < both.device.size(); ++number) {
        std::vector<Flip> flips = test::flips_of(drawn, number);
        std::stable_sort(flips.begin(), flips.end(),
                         [](const Flip& a, const Flip& b) { return a.element < b.element; });
        for (const Flip& flip : flips) {
            if (tensor.empty() || tensor.back() != number || element.back() != flip.element)
                first.push_back(static_cast<std::uint32_t>(bit.size()));
            tensor.push_back(number);
            element.push_back(static_cast<std::uint32_t>(flip.element));
            element_of_host.push_back(flip.element);
            bit.push_back(static_cast<std::uint8_t>(flip.bit));
        }
    }
    const std::uint64_t words = first.size(), flips = bit.size();
    first.push_back(static_cast<std::uint32_t>(flips));

    std::vector<std::uint64_t> memory(
        (8 + 8 * flips + 4 * (words + 1) + 4 * flips + 4 * flips + flips + 7) / 8 + 1, guard);
    auto* const bytes = reinterpret_cast<std::uint8_t*>(memory.data());
    memory[0] = 0;
    const cuda::DevicePlaces places =
        cuda::device_places_at(address_of(memory.data()), words, flips);
    const auto write = [&](std::uintptr_t at, const auto& column) {
        std::memcpy(bytes + (at - places.is_made), column.data(),
                    column.size() * sizeof(column[0]));
    };
    write(places.first, first);
    write(places.element, element);
    write(places.tensor, tensor);
    write(places.bit, bit);

    cuda::restore(both.tensors(), places, stream);  // flips that were not made are not undone
    CHECK(both.on_device.equal(both.clean));
    cuda::flip(both.tensors(), places, stream);
    FlipLog log;
    both.host.flip_places_into(log, {tensor.data(), element_of_host.data(), bit.data(), flips});
    CHECK(both.on_device.equal(both.on_host));
    CHECK_EQUAL(memory.back(), guard);
    CHECK_EQUAL(memory[0], std::uint64_t{1});
    std::size_t i = 0;
    for (const Flip& flip : test::all_flips(log)) CHECK_EQUAL(memory[1 + i++], flip.before);
    cuda::restore(both.tensors(), places, stream);
    CHECK(both.on_device.equal(both.clean));
}

}  // namespace

int main() {
    for (const double ber : {1e-6, 1e-3, 0.1, 0.5, 0.8, 1.0}) {
        test::context = "ber " + test::shown(ber);
        for (const bool is_logged : {true, false}) drawn_flips_equal_the_host(ber, is_logged);
    }
    for (const double ber : {1e-4, 0.1, 0.9}) {
        test::context = "places at ber " + test::shown(ber);
        given_flips_equal_the_host(ber);
    }
    return test::summary();
}
