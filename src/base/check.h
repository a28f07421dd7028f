// MLA_CHECK stops the program on a bug of our own. The user's errors are Status values instead.
#ifndef MLA_BASE_CHECK_H_
#define MLA_BASE_CHECK_H_

#include "mla/result.h"

namespace mla {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& message);

}  // namespace mla

// MLA_CHECK(page < num_pages, "page ", page);
#define MLA_CHECK(condition, ...)                                       \
  do {                                                                  \
    if (!(condition)) [[unlikely]] {                                    \
      ::mla::CheckFailed(__FILE__, __LINE__, #condition,                \
                         ::mla::Concat("" __VA_OPT__(, ) __VA_ARGS__)); \
    }                                                                   \
  } while (false)

#endif  // MLA_BASE_CHECK_H_
