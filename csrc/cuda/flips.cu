#include "flip_kernels.cuh"
#include "flips.hpp"
#include "place_kernels.cuh"

namespace proact::cuda {
namespace {

constexpr const char* flipping = "flipping bits";
constexpr const char* restoring = "restoring flipped words";

const DeviceTensor* described(std::uintptr_t tensors) {
    return reinterpret_cast<const DeviceTensor*>(tensors);
}

}  // namespace

void flip(std::uintptr_t tensors, const FlipRate& rate, const FaultPattern& pattern,
          const TrialMemory& memory, Stream stream) {
    if (rate.threads() == 0) return;
    launch(flipping, rate.is_inverted() ? &flip_all_but_drawn_kernel : &flip_drawn_kernel,
           grid_over(rate.threads(), flip_threads), stream, described(tensors), rate.tensors(),
           memory, pattern, rate.threads());
}

void restore(std::uintptr_t tensors, const FlipRate& rate, const TrialMemory& memory,
             Stream stream) {
    if (rate.restorers() == 0) return;
    launch(restoring, &restore_drawn_kernel, grid_over(rate.restorers(), restore_threads), stream,
           described(tensors), rate.tensors(), memory, rate.restorers());
}

DevicePlaces device_places_at(std::uintptr_t address, std::uint64_t words, std::uint64_t flips) {
    DevicePlaces places{};
    places.words = words;
    places.flips = flips;
    places.is_made = address;
    places.before = places.is_made + sizeof(std::uint64_t);
    places.first = places.before + flips * sizeof(std::uint64_t);
    places.element = places.first + (words + 1) * sizeof(std::uint32_t);
    places.tensor = places.element + flips * sizeof(std::uint32_t);
    places.bit = places.tensor + flips * sizeof(std::uint32_t);
    return places;
}

void flip(std::uintptr_t tensors, const DevicePlaces& places, Stream stream) {
    launch(flipping, &flip_places_kernel, grid_over(places.words, restore_threads), stream,
           described(tensors), places);
}

void restore(std::uintptr_t tensors, const DevicePlaces& places, Stream stream) {
    launch(restoring, &restore_places_kernel, grid_over(places.words, restore_threads), stream,
           described(tensors), places);
}

}  // namespace proact::cuda
