// Tests that a plan of tensors on the device equals the plan on the host bit for bit. The kernels
// run on the host: csrc/cuda/host_shim.hpp.
#include <cstdint>
#include <vector>

#include "../cuda/device_plan.hpp"
#include "../cuda/flips.cu"
#include "guarded_buffer.hpp"

using namespace proact;
using test::GuardedBuffer;

namespace {

constexpr cuda::Stream stream{0, 0};

struct DeviceTensors {
    GuardedBuffer<std::uint32_t> words{3001};
    GuardedBuffer<std::uint64_t> none{0};
    GuardedBuffer<std::uint8_t> bytes{777};
    GuardedBuffer<float> fixed{500};

    std::vector<TensorMemory> memory() {
        for (std::size_t i = 0; i < fixed.size; ++i)
            fixed.data()[i] = static_cast<float>(i) * 0.37f - 60.0f;
        return {words.memory(1, 0xffffffff), none.memory(2, 1), bytes.memory(3, 0x3c),
                fixed.memory(4, 0xffffffff, FixedPoint{32, 16})};
    }
    bool equal(const DeviceTensors& other) const {
        return words.all == other.words.all && bytes.all == other.bytes.all &&
               test::same_bytes(fixed.all, other.fixed.all);
    }
};

void equals_the_host(double ber, bool logged) {
    DeviceTensors on_host, on_device;
    FaultPlan host;
    cuda::DevicePlan device;
    for (const TensorMemory& memory : on_host.memory()) host.add(memory);
    for (const TensorMemory& memory : on_device.memory()) device.add(memory);
    const DeviceTensors clean = on_device;
    CHECK_EQUAL(device.exposed_bits(), host.exposed_bits());

    // A guard word after the memory, which must not change.
    constexpr std::uint64_t guard = 0x5a5a5a5a5a5a5a5au;
    std::vector<std::uint64_t> memory(device.bytes(ber, logged) / 8 + 1, guard);
    std::memset(memory.data(), 0, device.bytes_to_clear(ber));
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    device.flip(ber, test::seed, 9, address, logged, stream);
    const FlipLog log = host.flip(ber, {test::seed, 9});
    CHECK(on_device.equal(on_host));
    CHECK_EQUAL(memory[0], std::uint64_t{log.size()});
    CHECK_EQUAL(memory.back(), guard);
    if (!logged) return;

    const std::vector<cuda::DevicePlan::Place> places = device.places(ber, true);
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(memory.data());
    for (std::size_t tensor = 0; tensor < places.size(); ++tensor) {
        const cuda::DevicePlan::Place& place = places[tensor];
        const auto expected = test::flips_of(log, tensor);
        std::size_t flip = 0;
        for (std::uint64_t block = 0; block < place.layout.blocks; ++block) {
            std::uint32_t count;
            std::memcpy(&count, bytes + place.counts + 4 * block, sizeof count);
            for (std::uint64_t slot = block * place.layout.slots; count > 0; --count, ++slot) {
                std::uint32_t element;
                std::memcpy(&element, bytes + place.log + place.layout.element + 4 * slot,
                            sizeof element);
                std::uint64_t before = 0;
                std::memcpy(&before,
                            bytes + place.log + place.layout.before + place.word_bytes * slot,
                            place.word_bytes);
                CHECK(flip < expected.size());
                CHECK_EQUAL(element, expected[flip].element);
                CHECK_EQUAL(std::uint32_t{bytes[place.log + place.layout.bit + slot]},
                            expected[flip].bit);
                CHECK_EQUAL(before, expected[flip].before);
                ++flip;
            }
        }
        CHECK_EQUAL(flip, expected.size());
    }
    device.restore(ber, address, stream);
    CHECK(on_device.equal(clean));
}

}  // namespace

int main() {
    for (const double ber : {1e-6, 1e-3, 0.1, 0.5, 0.8, 1.0})
        for (const bool logged : {true, false}) {
            test::context = "ber " + test::shown(ber);
            equals_the_host(ber, logged);
        }
    return test::summary();
}
