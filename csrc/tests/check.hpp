// Checks that report the location and values of a failure and continue, so that one run shows every
// failure.
#pragma once

#include <cstdio>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>

namespace proact::test {

inline unsigned long long checks = 0;
inline unsigned long long failures = 0;

/// Printed with each failure. Tests that loop over cases store the name of the case here.
inline std::string context;

inline void fail(const char* file, int line, const std::string& what) {
    // Limit the output, so that a failing loop over a million cases does not hide the first
    // failures.
    constexpr unsigned long long max_printed = 25;
    if (++failures > max_printed) return;
    std::printf("%s:%d: %s%s%s\n", file, line, what.c_str(), context.empty() ? "" : "  in ",
                context.c_str());
}

template <class Value>
std::string shown(const Value& value) {
    std::ostringstream text;
    if constexpr (std::is_floating_point_v<Value>) {
        text.precision(std::numeric_limits<Value>::max_digits10);
        text << value;
    } else if constexpr (std::is_integral_v<Value>) {
        text << +value;  // print bytes as numbers, not characters
    } else {
        text << value;
    }
    return text.str();
}

template <class A, class B>
bool equal(const A& a, const B& b) {
    if constexpr (std::is_integral_v<A> && std::is_integral_v<B>)
        static_assert(std::is_signed_v<A> == std::is_signed_v<B>, "-1 would equal 2^32 - 1");
    return a == b;
}

template <class A, class B>
void check_equal(const char* file, int line, const char* text, const A& a, const B& b) {
    ++checks;
    if (!equal(a, b)) fail(file, line, std::string(text) + ": " + shown(a) + " != " + shown(b));
}

/// Prints the result and returns the exit status for main.
inline int summary() {
    std::string().swap(context);  // memory of CUDA must be freed before CUDA's own end
    std::printf("%llu checks, %llu failures\n", checks, failures);
    return checks > 0 && failures == 0 ? 0 : 1;
}

}  // namespace proact::test

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        ++::proact::test::checks;                                                         \
        if (!(condition)) ::proact::test::fail(__FILE__, __LINE__, "false: " #condition); \
    } while (false)

/// Evaluates `where` only on failure, for loops in which building the case name would dominate.
#define CHECK_IN(where, condition)                                          \
    do {                                                                    \
        ++::proact::test::checks;                                           \
        if (!(condition)) {                                                 \
            ::proact::test::context = (where);                              \
            ::proact::test::fail(__FILE__, __LINE__, "false: " #condition); \
            ::proact::test::context.clear();                                \
        }                                                                   \
    } while (false)

#define CHECK_EQUAL(a, b) ::proact::test::check_equal(__FILE__, __LINE__, #a " == " #b, (a), (b))

#define CHECK_THROWS(Exception, expression)                                                 \
    do {                                                                                    \
        bool thrown = false;                                                                \
        try {                                                                               \
            static_cast<void>(expression);                                                  \
        } catch (const Exception&) {                                                        \
            thrown = true;                                                                  \
        }                                                                                   \
        ++::proact::test::checks;                                                           \
        if (!thrown)                                                                        \
            ::proact::test::fail(__FILE__, __LINE__, #expression " throws no " #Exception); \
    } while (false)
