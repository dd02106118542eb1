#include "sweep.cuh"

namespace proact::cuda {
namespace {

/// Each thread writes the units of one log entry. A sweep logs each unit once at most, so the order
/// of the threads does not matter.
__global__ void __launch_bounds__(sweep_threads)
    restore_sweep_kernel(SweptMemories memories, DeviceSweepLog log, std::uint64_t slots) {
    const std::uint64_t slot = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (slot >= slots || slot >= *reinterpret_cast<const std::uint64_t*>(log.wanted)) return;
    const std::uint64_t place = reinterpret_cast<const std::uint64_t*>(log.place)[slot];
    const std::uint64_t thread = place & ((std::uint64_t{1} << place_thread_bits) - 1);
    const SweptGroup group = swept_group(memories, thread);
    if (group.address == 0) return;
    const Group before = reinterpret_cast<const Group*>(log.before)[slot];
    auto units = static_cast<std::uint32_t>(place >> place_thread_bits);
    for (std::uint32_t byte = 0; units != 0; byte += group.unit_bytes, units >>= 1)
        if ((units & 1) != 0) group.store_unit(byte, before.at(byte, group.unit_bytes));
}

}  // namespace

void restore(const SweptMemories& memories, const DeviceSweepLog& log, std::uint64_t slots,
             Stream stream) {
    launch("undoing a sweep", &restore_sweep_kernel, grid_over(slots, sweep_threads), stream,
           memories, log, slots);
}

}  // namespace proact::cuda
