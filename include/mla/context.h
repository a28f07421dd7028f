// What every operator call is given beside its arguments.
#ifndef MLA_CONTEXT_H_
#define MLA_CONTEXT_H_

#include <string_view>
#include <vector>

namespace mla {

class ThreadPool;
class Workspace;

// How matrix products are computed. Accumulation is fp32 or better in both.
enum class ComputeMode {
  kF32,   // weights as stored, activations in fp32: the mode of the golden comparisons
  kBF16,  // activations rounded to bf16 where they enter a matrix product: the fast mode
};

std::string_view ComputeModeName(ComputeMode mode);  // "f32", "bf16"

struct Context {
  ThreadPool* threads = nullptr;   // null: the calling thread alone
  Workspace* workspace = nullptr;  // null: the kernel allocates its scratch memory
  ComputeMode compute = ComputeMode::kF32;
  // No kernel that is chosen by the number of rows of a matrix product, so that not even the last
  // bits of a row's result depend on the others. It matters for quantised weights with AMX alone,
  // where it costs half the speed and more with many rows.
  bool batch_invariant = false;
  // Runs this kernel of the operator's list and no other; an error if it refuses. Empty: the first
  // in the list that accepts the call.
  std::string_view kernel;
};

// One kernel of an operator's list and what it says of a call.
struct KernelVerdict {
  std::string_view kernel;
  std::string_view refusal;  // empty: it accepts; the first that accepts runs
};

using KernelVerdicts = std::vector<KernelVerdict>;

}  // namespace mla

#endif  // MLA_CONTEXT_H_
