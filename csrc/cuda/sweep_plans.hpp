// Plans of sweeps over tensors in device memory, the counterparts of csrc/cpu/range_sweep.hpp and
// csrc/cpu/scrub_sweep.hpp. The caller uploads the description of a plan, allocates the memory of
// each log, and keeps both and the tensors alive until the device is done. No function waits for
// the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "../core/relocation.hpp"
#include "range.hpp"
#include "scrub.hpp"
#include "sweep.hpp"

namespace proact::cuda {

/// The memories of a plan.
class SweptMemoryList {
   public:
    std::size_t size() const { return memories_.size(); }
    std::uint64_t blocks() const { return blocks_; }

    /// The number of groups, which is the largest number of slots that a log needs.
    std::uint64_t groups() const { return groups_; }

    std::size_t description_bytes() const { return memories_.size() * sizeof(SweptMemory); }

    SweptMemories at(std::uintptr_t address) const {
        return {address, static_cast<std::uint32_t>(memories_.size()), blocks_};
    }

    /// The description of the memories where they are now.
    std::vector<SweptMemory> after(const std::vector<Relocation>& moved) const {
        std::vector<SweptMemory> now = memories_;
        for (SweptMemory& memory : now) memory.address = relocated(memory.address, moved);
        return now;
    }

    /// Throws std::invalid_argument for an address at which a device cannot read words.
    void add(std::uintptr_t address, std::uint64_t units, std::uint32_t unit_bytes,
             std::uint32_t word_bytes) {
        check_aligned("a tensor", address, word_bytes);
        const std::uint64_t bytes = units * unit_bytes;
        memories_.push_back({address, bytes, blocks_, word_bytes, unit_bytes});
        const std::uint64_t groups = (bytes + group_bytes - 1) / group_bytes;
        groups_ += groups;
        blocks_ += (groups + sweep_threads - 1) / sweep_threads;
    }

    static void check_aligned(const char* what, std::uintptr_t address, std::uint32_t bytes) {
        if (address == 0 || address % bytes != 0)
            throw std::invalid_argument("expected the address of " + std::string(what) +
                                        " to be a positive multiple of its word size of " +
                                        std::to_string(bytes) + " bytes, got " +
                                        std::to_string(address));
    }

    static void check_bound(std::uintptr_t address, Dtype dtype) {
        with_element(dtype, [&](auto* type) { check_aligned("a bound", address, sizeof *type); });
    }

   private:
    std::vector<SweptMemory> memories_;
    std::uint64_t blocks_ = 0, groups_ = 0;
};

template <class Item>
void append_bytes(std::vector<unsigned char>& bytes, const std::vector<Item>& items) {
    const auto* const first = reinterpret_cast<const unsigned char*>(items.data());
    bytes.insert(bytes.end(), first, first + items.size() * sizeof(Item));
}

/// Tensors and their bounds.
class DeviceRangePlan {
   public:
    static constexpr std::size_t counts_of_memory = 1;

    /// Throws std::invalid_argument if channels or inner is 0, and for unaligned addresses.
    void add(const BoundedMemory& memory) {
        check_channels(memory.channels, memory.inner);
        for (const std::uintptr_t bound : {memory.low, memory.high})
            SweptMemoryList::check_bound(bound, memory.bound_dtype);
        with_element(memory.dtype, [&](auto* type) {
            memories_.add(memory.address, memory.elements, sizeof *type, sizeof *type);
        });
        bounds_.push_back(memory);
    }

    const SweptMemoryList& memories() const { return memories_; }

    /// The memories, followed by their bounds; to be uploaded to a multiple of 8.
    std::vector<unsigned char> described() const {
        std::vector<unsigned char> bytes;
        append_bytes(bytes, memories_.after({}));
        append_bytes(bytes, bounds_);
        return bytes;
    }

    /// Sweeps all memories. The log has one count for each.
    void sweep(std::uintptr_t description, RangeAction action, const DeviceSweepLog& log,
               Stream stream) const {
        restrict_range(memories_.at(description), description + memories_.description_bytes(),
                       action, log, stream);
    }

   private:
    SweptMemoryList memories_;
    std::vector<BoundedMemory> bounds_;
};

/// Tensors of codewords.
class DeviceScrubPlan {
   public:
    static constexpr std::size_t counts_of_memory = 2;

    /// Adds adjacent codewords. The tables of the code are in host memory and are copied; their
    /// owner must live as long as the plan, which knows a code by their address. Throws
    /// std::invalid_argument if a codeword does not consist of whole words, if channels or inner is
    /// 0, and for unaligned addresses.
    void add(std::uintptr_t address, std::uint64_t codewords, const CodeTables& code,
             std::uint32_t word_bytes, std::uint64_t first_word, const Replacement& replacement) {
        check_words(code.codeword_bytes, word_bytes);
        check_channels(replacement.channels, replacement.inner);
        if (replacement.low != 0)
            for (const std::uintptr_t bound : {replacement.low, replacement.high})
                SweptMemoryList::check_bound(bound, replacement.bound_dtype);
        memories_.add(address, codewords, code.codeword_bytes, word_bytes);
        codewords_.push_back({placed(code), first_word, replacement});
    }

    const SweptMemoryList& memories() const { return memories_; }

    /// The memories, followed by their codes and the tables of all codes; to be uploaded to a
    /// multiple of 8.
    std::vector<unsigned char> described() const {
        std::vector<unsigned char> bytes;
        append_bytes(bytes, memories_.after({}));
        append_bytes(bytes, codewords_);
        append_bytes(bytes, tables_);
        return bytes;
    }

    /// Scrubs all memories. The log has two counts for each.
    void sweep(std::uintptr_t description, const DeviceSweepLog& log, Stream stream) const {
        scrub(memories_.at(description), codes_at(description), log, stream);
    }

    /// Writes valid check bits into all codewords.
    void encode(std::uintptr_t description, Stream stream) const {
        cuda::encode(memories_.at(description), codes_at(description), stream);
    }

   private:
    DeviceCodes codes_at(std::uintptr_t description) const {
        const std::uintptr_t codewords = description + memories_.description_bytes();
        return {codewords, codewords + codewords_.size() * sizeof(DeviceCodewords)};
    }

    /// Returns the code with the places of its tables, which are stored once.
    DeviceCode placed(const CodeTables& code) {
        const auto [found, is_new] = codes_.try_emplace(code.syndromes);
        if (is_new) {
            const std::size_t syndromes = std::size_t{1} << code.check_bits;
            found->second = {
                code.codeword_bytes,
                code.check_bits,
                code.payload,
                place(code.syndromes, std::size_t{code.groups()} * syndrome_index_values),
                place(code.spread, 3 * 256),
                place(code.flips, syndromes),
                place(code.keeps, syndromes),
                place(code.is_detected, syndromes),
                code.masks};
        }
        return found->second;
    }

    /// Copies a table to the next multiple of 8; returns its offset in bytes.
    template <class Entry>
    std::uint64_t place(const Entry* table, std::size_t entries) {
        const std::size_t first = tables_.size(), bytes = entries * sizeof(Entry);
        tables_.resize(first + (bytes + 7) / 8);
        std::memcpy(&tables_[first], table, bytes);
        return first * sizeof(std::uint64_t);
    }

    SweptMemoryList memories_;
    std::vector<DeviceCodewords> codewords_;
    std::map<const std::uint32_t*, DeviceCode> codes_;
    std::vector<std::uint64_t> tables_;
};

}  // namespace proact::cuda
