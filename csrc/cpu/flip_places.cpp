// Flips the bits that the caller lists.
#include "flip_batch.hpp"
#include "flip_words.hpp"
#include "flips.hpp"

namespace proact {
namespace {

/// Large enough to hide memory latency, small enough for few false positives of SeenFilter.
constexpr std::uint32_t batch_size = 256;

}  // namespace

void FaultPlan::flip_places_into(FlipLog& log, const FlipPlaces& places) const {
    places.check(tensors_);
    FlipColumns& columns = log.calls.emplace_back(1).front();
    columns.reserve_total(places.size);
    SeenFilter seen;
    for (std::size_t i = 0; i < places.size;) {
        const std::uint32_t tensor = places.tensor[i];
        columns.begin_segment(tensor, tensors_[tensor]);
        i = with_words(tensors_[tensor], seen, [&](auto words) {
            FlipBatch batch(columns);
            std::size_t next = i;
            for (; next < places.size && places.tensor[next] == tensor; ++next) {
                const std::uint64_t element = places.element[next];
                if (batch.size() >= batch_size && element != places.element[next - 1])
                    batch.flip(words);
                words.prefetch(static_cast<std::uint32_t>(element));
                batch.add(element, places.bit[next]);
            }
            batch.flip(words);
            return next;
        });
    }
}

}  // namespace proact
