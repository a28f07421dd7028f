// The two halves of a decoder layer. Each reads the normed hidden state and adds its output to the
// residual stream.
#ifndef MLA_MODEL_LAYERS_H_
#define MLA_MODEL_LAYERS_H_

#include <functional>
#include <span>
#include <vector>

#include "base/workspace.h"
#include "kvcache/kv_cache.h"
#include "mla/attention.h"
#include "mla/context.h"
#include "mla/result.h"
#include "mla/tensor.h"
#include "model/batch.h"
#include "model/spec.h"
#include "model/weights.h"

namespace mla {

// Which form of MLA runs: per sequence by cost, or one for all. kMha is the model run as plain
// multi-head attention, to compare: keys and values of every head are computed once and cached
// (CacheSpecs with the same argument), and no latent is. A layer that chooses the tokens it attends
// to does so in every form; kExpanded then runs as kAbsorbed, as each query has tokens of its own.
enum class AttentionForm { kAuto, kAbsorbed, kExpanded, kMha };

// Sees the arguments of each layer's Gqa calls, just before them: for MHA, GQA and MQA models, and
// for MLA ones under kMha. One call serves neighbouring sequences; where tokens are chosen, it has
// each query as a sequence of its own, over pages of one token.
using AttentionObserver = std::function<void(size_t layer, const GqaArgs& args)>;

// What all layers of a step share.
struct StepContext {
  const StepBatch& batch;
  const KvCache& cache;
  const Context& context;
  Workspace& workspace;
  AttentionForm form = AttentionForm::kAuto;
  const AttentionObserver* attention_observer = nullptr;
  // [tokens, top_k]: what the last layer with an indexer has chosen, kept for those that reuse it.
  std::vector<int32_t>* selection = nullptr;
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

// The sequence attends to fewer tokens than it has.
inline bool IsSparse(const IndexerSpec& spec, const StepContext& step, int32_t seq) {
  return step.batch.kv_lens[seq] > spec.top_k;
}

// Caches the indexer keys of the step's tokens and, for the sequences that are sparse, chooses
// tokens into step.selection. x [tokens, hidden]: the layer's normed input. q_latent [tokens,
// q_lora_rank]: the query's normed latent. `turns` as in RunMla.
Status RunIndexer(const MlaSpec& spec, const IndexerWeights& weights, size_t layer,
                  const ConstTensor& turns, const ConstTensor& x, const ConstTensor& q_latent,
                  const StepContext& step);

// x [tokens, hidden]: normed input. hidden: += the MLP's output.
Status RunDenseMlp(const DenseMlpWeights& weights, const ConstTensor& x, const Tensor& hidden,
                   const StepContext& step);
Status RunMoe(const MoeSpec& spec, const MoeWeights& weights, const ConstTensor& x,
              const Tensor& hidden, const StepContext& step);

}  // namespace mla

#endif  // MLA_MODEL_LAYERS_H_
