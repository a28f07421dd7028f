// The two halves of a decoder layer. Each reads the normed hidden state and adds its output to the
// residual stream.
#ifndef MLA_MODEL_LAYERS_H_
#define MLA_MODEL_LAYERS_H_

#include <span>

#include "base/workspace.h"
#include "kvcache/kv_cache.h"
#include "mla/context.h"
#include "mla/result.h"
#include "mla/tensor.h"
#include "model/batch.h"
#include "model/spec.h"
#include "model/weights.h"

namespace mla {

// Which form of MLA runs: per sequence by cost, or one for all.
enum class AttentionForm { kAuto, kAbsorbed, kExpanded };

// What all layers of a step share.
struct StepContext {
  const StepBatch& batch;
  const KvCache& cache;
  const Context& context;
  Workspace& workspace;
  AttentionForm form = AttentionForm::kAuto;
};

// A contiguous f32 buffer from the workspace, valid until the enclosing Scope ends.
inline Tensor NewTensor(Workspace& workspace, std::initializer_list<int64_t> dims) {
  int64_t count = 1;
  for (int64_t d : dims) count *= d;
  return Tensor(workspace.Allocate<float>(count), DType::kF32, dims);
}

// x [tokens, hidden]: normed input. hidden [tokens, hidden]: += the attention's output. `turns` is
// the table of the layer's rope for this step's positions.
Status RunMla(const MlaSpec& spec, const MlaWeights& weights, size_t layer,
              const ConstTensor& turns, const ConstTensor& x, const Tensor& hidden,
              const StepContext& step);
Status RunGqa(const GqaSpec& spec, const GqaWeights& weights, size_t layer,
              const ConstTensor& turns, const ConstTensor& x, const Tensor& hidden,
              const StepContext& step);

// x [tokens, hidden]: normed input. hidden: += the MLP's output.
Status RunDenseMlp(const DenseMlpWeights& weights, const ConstTensor& x, const Tensor& hidden,
                   const StepContext& step);
Status RunMoe(const MoeSpec& spec, const MoeWeights& weights, const ConstTensor& x,
              const Tensor& hidden, const StepContext& step);

}  // namespace mla

#endif  // MLA_MODEL_LAYERS_H_
