// libmla.so, by its C interface.
#include <cstdio>
#include <cstring>

#include "mla/mla.h"

int main() {
  mla_build_info info = {};
  info.size = sizeof(info);
  if (mla_get_build_info(&info) != MLA_OK || std::strcmp(info.version, "0.1.0") != 0) return 1;
  if (mla_decode(nullptr) != MLA_INVALID_ARGUMENT) return 1;
  std::printf("use_c: passed\n");
  return 0;
}
