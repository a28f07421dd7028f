// The tensors of a GGUF file: how they are made from a model's weights.
#ifndef MLA_MODEL_GGUF_LAYOUT_H_
#define MLA_MODEL_GGUF_LAYOUT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/stored_tensor.h"
#include "model/spec.h"
#include "model/weights.h"

namespace mla {

// A tensor to be written, row by row. Rows are those of the shape without its last dimension.
struct GgufTensorPlan {
  std::string name;
  std::vector<int64_t> shape;                      // slowest first
  StoredDType stored = StoredDType::kF32;          // of the weights it is made from
  int64_t unit = 1;                                // rows that are made together
  std::function<void(int64_t, float*)> read_unit;  // unit `i` as f32; thread-safe

  int64_t cols() const { return shape.back(); }
  int64_t rows() const;
};

// All tensors, in the order of the model. Experts are stacked; kv_b is split per head, its keys'
// half transposed; rows of q and k that are rotated in halves are reordered so that neighbours are
// rotated together, where the architecture has it so. The weights must outlive the plans.
std::vector<GgufTensorPlan> PlanGgufTensors(const ModelSpec& spec, const ModelWeights& weights);

}  // namespace mla

#endif  // MLA_MODEL_GGUF_LAYOUT_H_
