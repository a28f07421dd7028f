// What one rendering may use: a template is a program from an untrusted file.
#ifndef MLA_IO_CHAT_TEMPLATE_BUDGET_H_
#define MLA_IO_CHAT_TEMPLATE_BUDGET_H_

#include <cstddef>
#include <cstdint>

#include "mla/result.h"

namespace mla::jinja {

class Budget {
 public:
  Budget(int64_t steps, int64_t bytes) : steps_(steps), bytes_(bytes), max_{steps, bytes} {}

  // One step is about one operation on one value, or on 64 bytes.
  Status Step(size_t count = 1) {
    if (static_cast<size_t>(steps_) < count) {
      return InvalidArgument("rendering takes more than ", max_[0], " steps");
    }
    steps_ -= static_cast<int64_t>(count);
    return {};
  }

  // Before making a value of about this size. Never given back: bounds the memory in use.
  Status Allocate(size_t bytes) {
    if (static_cast<size_t>(bytes_) < bytes) {
      return InvalidArgument("rendering makes more than ", max_[1], " bytes of values");
    }
    bytes_ -= static_cast<int64_t>(bytes);
    return Step(bytes / 64 + 1);
  }

 private:
  int64_t steps_, bytes_;
  int64_t max_[2];
};

}  // namespace mla::jinja

#endif  // MLA_IO_CHAT_TEMPLATE_BUDGET_H_
