// Tests Philox against the published known answers.
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

#include "../core/philox.hpp"
#include "check.hpp"

using namespace proact;

int main() {
    constexpr PhiloxCounter at_compile_time = philox4x32_10({{0, 0, 0, 0}}, {{0, 0}});
    CHECK_EQUAL(at_compile_time.word[0], 0x6627e8d5u);

    std::ifstream file(PROACT_TEST_DATA "/philox4x32_10.txt");
    CHECK(file.is_open());

    unsigned answers = 0;
    for (std::string line; std::getline(file, line);) {
        if (line.empty() || line[0] == '#') continue;
        test::context = line;
        std::istringstream numbers(line);
        numbers >> std::hex;
        PhiloxCounter counter{}, expected{};
        PhiloxKey key{};
        for (std::uint32_t& word : counter.word) numbers >> word;
        for (std::uint32_t& word : key.word) numbers >> word;
        for (std::uint32_t& word : expected.word) numbers >> word;
        CHECK(!numbers.fail());
        std::string rest;
        CHECK(!(numbers >> rest));

        const PhiloxCounter output = philox4x32_10(counter, key);
        for (int i = 0; i < 4; ++i) CHECK_EQUAL(output.word[i], expected.word[i]);
        ++answers;
    }
    test::context.clear();
    CHECK_EQUAL(answers, 3u);
    return test::summary();
}
