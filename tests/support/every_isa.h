// Runs a test body on every instruction set of the machine.
#ifndef MLA_TESTS_SUPPORT_EVERY_ISA_H_
#define MLA_TESTS_SUPPORT_EVERY_ISA_H_

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "kernels/cpu/isa.h"

namespace mla::test {

// Calls body(isa) with the CPU kernels limited to each set in turn, then restores the limit.
template <typename Body>
void ForEachIsa(const Body& body) {
  const std::string before(cpu::CurrentIsa());
  for (const std::string_view isa : cpu::SupportedIsas()) {
    SCOPED_TRACE(std::string("on ") + std::string(isa));
    ASSERT_TRUE(cpu::LimitIsa(isa).ok());
    body(isa);
  }
  ASSERT_TRUE(cpu::LimitIsa(before).ok());
}

}  // namespace mla::test

#endif  // MLA_TESTS_SUPPORT_EVERY_ISA_H_
