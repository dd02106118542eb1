// Formatting of values in error messages.
#pragma once

#include <cstdio>
#include <string>

namespace proact {

/// Returns all digits of a number. std::to_string would round 1e-9 to 0.
inline std::string shown(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", value);
    return text;
}

}  // namespace proact
