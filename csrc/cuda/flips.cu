#include <algorithm>
#include <stdexcept>
#include <string>

#include "flip_kernels.cuh"
#include "flips.hpp"

namespace proact::cuda {
namespace {

/// The largest number of flips that the law allows in one block.
std::uint64_t slots_per_block(const TensorMemory& memory, const BlockLaw& law) {
    if (!law.inverted) return law.drawn.size;
    return std::min(law.words(), memory.words) * law.bits_per_word;
}

void check_address(std::uintptr_t address, std::size_t alignment, const char* name) {
    if (address == 0 || address % alignment != 0)
        throw std::invalid_argument(std::string("expected the address of ") + name +
                                    " to be a positive multiple of " + std::to_string(alignment) +
                                    ", got " + std::to_string(address));
}

void check_task(const TensorMemory& memory, const BlockLaw& law, std::uintptr_t counts) {
    memory.check();
    check_format(memory);
    check_address(memory.address, memory.word_bytes, "a tensor");
    check_address(counts, alignof(std::uint32_t), "the counts");
    if (law.bits_per_word != memory.exposed_bits_per_word())
        throw std::invalid_argument(
            "expected a block law for " + std::to_string(memory.exposed_bits_per_word()) +
            " exposed bits per word, got one for " + std::to_string(law.bits_per_word));
    if (law.drawn.size > BinomialTable::max_count)
        throw std::invalid_argument("expected a binomial table of at most " +
                                    std::to_string(BinomialTable::max_count) + " entries, got " +
                                    std::to_string(law.drawn.size));
}

DeviceLog device_log(const LogLayout& layout, std::uintptr_t log, std::uintptr_t counts) {
    DeviceLog made{};
    if (log != 0) {
        check_address(log, alignof(std::uint64_t), "the log");
        made.before = reinterpret_cast<void*>(log + layout.before);
        made.element = reinterpret_cast<std::uint32_t*>(log + layout.element);
        made.bit = reinterpret_cast<std::uint8_t*>(log + layout.bit);
    }
    made.counts = reinterpret_cast<std::uint32_t*>(counts);
    made.blocks = layout.blocks;
    made.slots = layout.slots;
    return made;
}

FlipTask flip_task(const TensorMemory& memory, const BlockLaw& law, const FaultStream& fault,
                   const DeviceLog& log) {
    FlipTask task{};
    task.memory = reinterpret_cast<void*>(memory.address);
    task.words = memory.words;
    task.log = log;
    task.fault = fault;
    task.words_log2 = law.words_log2;
    task.bits_per_word = law.bits_per_word;
    std::copy_n(law.drawn.survival, law.drawn.size, task.table.survival);
    std::copy_n(law.drawn.guide, sizeof task.table.guide, task.table.guide);
    task.table.size = law.drawn.size;
    std::uint32_t rank = 0;
    for (std::uint8_t bit = 0; bit < 64; ++bit)
        if ((memory.mask >> bit & 1) != 0) task.exposed[rank++] = bit;
    return task;
}

template <class Words>
void launch_flips(const BlockLaw& law, const FlipTask& task, const Words& words, Stream stream) {
    constexpr const char* what = "flipping bits";
    if (!law.inverted) {
        launch(what, &flip_drawn_kernel<Words>, grid_over(task.log.blocks, flip_threads), stream,
               task, words);
        return;
    }
    const std::uint64_t max_words = std::min(law.words(), task.words);
    const auto shares =
        static_cast<std::uint32_t>((max_words + words_per_share - 1) / words_per_share);
    launch(what, &flip_all_but_drawn_kernel<Words>,
           grid_over(task.log.blocks * shares, flip_threads), stream, task, words, shares);
}

template <class Word>
void launch_restore(const TensorMemory& memory, const BlockLaw& law, const DeviceLog& log,
                    Stream stream) {
    constexpr const char* what = "restoring flipped words";
    auto* const words = reinterpret_cast<Word*>(memory.address);
    if (law.inverted)
        launch(what, &restore_all_but_drawn_kernel<Word>,
               grid_over(log.blocks * log.slots, flip_threads), stream, words, log);
    else
        launch(what, &restore_drawn_kernel<Word>, grid_over(log.blocks, flip_threads), stream,
               words, log);
}

}  // namespace

std::uint64_t block_count(const TensorMemory& memory, const BlockLaw& law) {
    return law.blocks(memory.words);
}

LogLayout log_layout(const TensorMemory& memory, const BlockLaw& law) {
    LogLayout layout{};
    layout.blocks = block_count(memory, law);
    layout.slots = slots_per_block(memory, law);
    const std::uint64_t places = layout.blocks * layout.slots;
    // Each array is aligned to its word size, because the preceding arrays have words of at least
    // that size.
    layout.before = memory.word_bytes < 4 ? places * 4 : 0;
    layout.element = memory.word_bytes < 4 ? 0 : places * memory.word_bytes;
    layout.bit = places * (memory.word_bytes + 4);
    layout.bytes = layout.bit + places;
    return layout;
}

void flip(const TensorMemory& memory, const BlockLaw& law, const FaultStream& fault,
          std::uintptr_t log, std::uintptr_t counts, Stream stream) {
    if (memory.words == 0) return;
    check_task(memory, law, counts);
    const DeviceLog device = device_log(log_layout(memory, law), log, counts);
    const FlipTask task = flip_task(memory, law, fault, device);
    if (const auto* fixed = std::get_if<FixedPoint>(&memory.format)) {
        if (memory.word_bytes == 4)
            launch_flips(law, task, DeviceFixedPointWords<float>{*fixed}, stream);
        else
            launch_flips(law, task, DeviceFixedPointWords<double>{*fixed}, stream);
        return;
    }
    switch (memory.word_bytes) {
        case 1: return launch_flips(law, task, DeviceNativeWords<std::uint8_t>{}, stream);
        case 2: return launch_flips(law, task, DeviceNativeWords<std::uint16_t>{}, stream);
        case 4: return launch_flips(law, task, DeviceNativeWords<std::uint32_t>{}, stream);
        default: return launch_flips(law, task, DeviceNativeWords<std::uint64_t>{}, stream);
    }
}

void restore(const TensorMemory& memory, const BlockLaw& law, std::uintptr_t log,
             std::uintptr_t counts, Stream stream) {
    const LogLayout layout = log_layout(memory, law);
    if (layout.bytes == 0) return;
    check_task(memory, law, counts);
    check_address(log, alignof(std::uint64_t), "the log");
    const DeviceLog device = device_log(layout, log, counts);
    switch (memory.word_bytes) {
        case 1: return launch_restore<std::uint8_t>(memory, law, device, stream);
        case 2: return launch_restore<std::uint16_t>(memory, law, device, stream);
        case 4: return launch_restore<std::uint32_t>(memory, law, device, stream);
        default: return launch_restore<std::uint64_t>(memory, law, device, stream);
    }
}

void add_counts(std::uintptr_t counts, std::uint64_t blocks, std::uintptr_t total, Stream stream) {
    if (blocks == 0) return;
    check_address(counts, alignof(std::uint32_t), "the counts");
    check_address(total, alignof(std::uint64_t), "the total");
    constexpr std::uint64_t counts_per_thread = 16;  // to outweigh the cost of the reduction
    constexpr std::uint64_t max_blocks = 1024;
    Grid grid = grid_over(blocks / counts_per_thread + 1, reduction_threads);
    grid.blocks = std::min(grid.blocks, max_blocks);
    grid.barriers = Barriers::used;
    launch("adding up flips", &add_counts_kernel, grid, stream,
           reinterpret_cast<const std::uint32_t*>(counts), blocks,
           reinterpret_cast<unsigned long long*>(total));
}

}  // namespace proact::cuda
