// Weights quantised when a model is loaded: smaller in memory, and faster where that is what bounds
// a token.
#ifndef MLA_MODEL_QUANTIZE_H_
#define MLA_MODEL_QUANTIZE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "mla/tensor.h"
#include "model/weights.h"

namespace mla {

class ThreadPool;

enum class QuantiseTo {
  kQ8,  // q8_0: 8.5 bits per weight
  kQ4,  // q4_K: 4.5 bits per weight; the head, which is the most sensitive, q6_K
};

struct QuantiseOptions {
  QuantiseTo to = QuantiseTo::kQ8;
  ThreadPool* threads = nullptr;
  std::function<void(int64_t done, int64_t total)> progress =
      {};  // numbers quantised; may be empty
};

struct QuantiseReport {
  std::map<DType, int64_t> tensors;  // how many of each type now, of those that are quantised
  int64_t bytes_before = 0, bytes_after = 0;  // of the same
  // One line about weights whose rows are no multiple of the block of the type asked for: what they
  // are instead. Empty if there are none.
  std::string fallbacks;
};

// The type for rows of `in` elements: the wanted one if they are whole blocks of it, else q6_K ->
// q8_0 and q4_K -> q4_0, else (no multiple of 32) `stored`.
DType FittingType(DType wanted, int64_t in, DType stored);

// Quantises the f32, f16 and bf16 weights of all projections of attention, of dense layers, routed
// and shared experts, and of the head. Left as they are: norms, biases, routers, indexers, the
// embedding (a head tied to it gets a copy of its own), the heads' up-projections (kv_b_proj), and
// what is quantised already. The new weights lie in `weights.converted`.
QuantiseReport QuantiseWeights(const QuantiseOptions& options, ModelWeights& weights);

}  // namespace mla

#endif  // MLA_MODEL_QUANTIZE_H_
