// Search for values outside their range. Each range_<isa>.cpp includes this file in its own
// namespace, with its own compilation target and `vector_bytes`.

template <class Element>
std::size_t first_outside(const Element* x, std::size_t size,
                          typename Arithmetic<Element>::Real floor,
                          typename Arithmetic<Element>::Real ceiling) {
    using Memory = VectorMemory<Element, vector_bytes>;
    using Value = typename Memory::Value;
    using L = SimdTraits<Value>;
    constexpr std::size_t lanes = sizeof(Value) / sizeof(floor);
    // Number of vectors per branch.
    constexpr std::size_t vectors_per_branch = 8;
    constexpr std::size_t chunk = vectors_per_branch * lanes;
    static_assert(chunk <= range_window);

    const Value lowest = L::all(floor), highest = L::all(ceiling);
    std::size_t i = 0;
    for (; i + chunk <= size; i += chunk) {
        prefetch_ahead(x + i, chunk * sizeof(Element));
        // A value lies outside if clamping changes its bits. This covers NaN, because maximum and
        // minimum return their second argument if either argument is NaN.
        typename L::Bits changed{};
        for (std::size_t k = 0; k < vectors_per_branch; ++k) {
            const Value value = Memory::read(x + i + k * lanes);
            const Value clamped = L::minimum(L::maximum(lowest, value), highest);
            changed |= L::bits(clamped) ^ L::bits(value);
        }
        if (any(changed)) return i;
    }
    for (; i < size; ++i) {
        const auto value = Arithmetic<Element>::load(x[i]);
        if (!(value >= floor && value <= ceiling)) break;
    }
    return i;
}
