// The instruction sets of a build without Highway: what the compiler was told to use, and no more.
#include "kernels/cpu/isa.h"

namespace mla::cpu {

std::vector<std::string_view> SupportedIsas() { return {"baseline"}; }
std::string_view CurrentIsa() { return "baseline"; }

}  // namespace mla::cpu
