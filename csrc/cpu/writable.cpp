#include "writable.hpp"

#include <unistd.h>

#include <cerrno>
#include <system_error>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

namespace proact {
namespace {

#if defined(__linux__) && defined(SYS_futex)
enum class Answer { yes, no, unknown };

/// The kernel adds 0 to the word atomically and wakes no thread. Memory that cannot be written
/// makes the call fail with EFAULT.
Answer ask_futex(std::uintptr_t address) {
    alignas(4) static std::uint32_t nobody_waits = 0;
    const std::uintptr_t word = address & ~std::uintptr_t{3};  // on the same page
    constexpr int add_nothing = FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_EQ, 0);
    if (syscall(SYS_futex, &nobody_waits, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, nullptr, word,
                add_nothing) >= 0)
        return Answer::yes;
    return errno == EFAULT ? Answer::no : Answer::unknown;
}

bool is_byte_writable(std::uintptr_t address) {
    const Answer answer = ask_futex(address);
    return answer == Answer::unknown ? is_writable_by_pipe(address) : answer == Answer::yes;
}
#else
bool is_byte_writable(std::uintptr_t address) { return is_writable_by_pipe(address); }
#endif

}  // namespace

bool is_writable(std::uintptr_t address, std::size_t bytes) {
    return bytes == 0 || (is_byte_writable(address) && is_byte_writable(address + bytes - 1));
}

bool is_writable_by_pipe(std::uintptr_t address) {
    int ends[2];
    if (pipe(ends) != 0)
        throw std::system_error(errno, std::generic_category(), "a pipe cannot be opened");
    // The byte takes the way through the pipe back to its place; the system checks both accesses.
    void* const byte = reinterpret_cast<void*>(address);
    const bool writable = write(ends[1], byte, 1) == 1 && read(ends[0], byte, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return writable;
}

}  // namespace proact
