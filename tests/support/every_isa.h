// Runs a test body on every instruction set of the machine, or on one of them alone.
#ifndef MLA_TESTS_SUPPORT_EVERY_ISA_H_
#define MLA_TESTS_SUPPORT_EVERY_ISA_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cpu/isa.h"

namespace mla::test {

// Those that tests go through, best first: the machine's, or with MLA_TEST_ISA in the environment
// that one, if the machine has it.
inline std::vector<std::string_view> TestedIsas() {
  std::vector<std::string_view> isas = cpu::SupportedIsas();
  const char* only = std::getenv("MLA_TEST_ISA");
  if (only != nullptr) std::erase_if(isas, [&](std::string_view isa) { return isa != only; });
  return isas;
}

// Calls body(isa) with the CPU kernels limited to each set in turn, then restores the limit.
template <typename Body>
void ForEachIsa(const Body& body) {
  const std::vector<std::string_view> isas = TestedIsas();
  if (isas.empty()) GTEST_SKIP() << "this machine has no " << std::getenv("MLA_TEST_ISA");
  const std::string before(cpu::CurrentIsa());
  for (const std::string_view isa : isas) {
    SCOPED_TRACE(std::string("on ") + std::string(isa));
    ASSERT_TRUE(cpu::LimitIsa(isa).ok());
    body(isa);
  }
  ASSERT_TRUE(cpu::LimitIsa(before).ok());
}

}  // namespace mla::test

#endif  // MLA_TESTS_SUPPORT_EVERY_ISA_H_
