#include <algorithm>
#include <cmath>

#include "mla/elementwise.h"
#include "mla/linear.h"
#include "mla/sparse.h"
#include "model/layers.h"

namespace mla {
namespace {

// The rotated part of each head, the first d_r elements: [tokens, heads, d_r].
Tensor RotatedPart(const Tensor& t, int64_t heads, const ConstTensor& turns) {
  const int64_t dim = t.dim(1) / heads;
  const Tensor split(t.data(), t.dtype(), {t.dim(0), heads, dim}, {t.stride(0), dim, 1});
  return split.Slice(2, 0, 2 * turns.dim(2));
}

Status Rotate(const IndexerSpec& spec, const Tensor& t, int64_t heads, const ConstTensor& turns,
              const StepContext& step) {
  const Tensor part = RotatedPart(t, heads, turns);
  return Rope({.x = part, .turns = turns, .pairing = spec.pairing, .y = part}, step.context);
}

// The layer's "index_k", which follows what its attention caches.
Tensor IndexKeys(size_t layer, const StepContext& step) {
  return step.cache.Component(layer, step.cache.options().layers[layer].size() - 1);
}

// k_I of the step's tokens, into the cache.
Status CacheKeys(const IndexerSpec& spec, const IndexerWeights& weights, size_t layer,
                 const ConstTensor& turns, const ConstTensor& x, const StepContext& step) {
  const Workspace::Scope scope(step.workspace);
  const Tensor k = NewTensor(step.workspace, {x.dim(0), spec.head_dim});
  const LinearTarget target{weights.k.w, weights.k.bias, k};
  MLA_RETURN_IF_ERROR(Linear({.x = x, .targets = {&target, 1}}, step.context));
  MLA_RETURN_IF_ERROR(LayerNorm(
      {.x = k, .w = weights.k_norm, .bias = weights.k_norm_bias, .eps = spec.norm_eps, .y = k},
      step.context));
  MLA_RETURN_IF_ERROR(Rotate(spec, k, 1, turns, step));
  const Tensor pages = IndexKeys(layer, step);
  const Tensor slots(pages.data(), pages.dtype(), {pages.dim(0) * pages.dim(1), pages.dim(2)});
  return CacheWrite({.x = k, .slots = step.batch.slots, .cache = slots}, step.context);
}

}  // namespace

Status RunIndexer(const MlaSpec& mla, const IndexerWeights& weights, size_t layer,
                  const ConstTensor& turns, const ConstTensor& x, const ConstTensor& q_latent,
                  const StepContext& step) {
  const IndexerSpec& spec = *mla.indexer;
  const StepBatch& batch = step.batch;
  MLA_RETURN_IF_ERROR(CacheKeys(spec, weights, layer, turns, x, step));
  step.selection->assign(batch.num_tokens() * spec.top_k, -1);
  const Workspace::Scope scope(step.workspace);
  const Tensor q = NewTensor(step.workspace, {x.dim(0), int64_t{spec.heads} * spec.head_dim});
  const Tensor head_weights = NewTensor(step.workspace, {x.dim(0), spec.heads});
  const Tensor indices(step.selection->data(), DType::kI32, {batch.num_tokens(), spec.top_k});
  const auto scale = static_cast<float>(1 / std::sqrt(double{1} * spec.heads * spec.head_dim));
  for (int32_t begin = 0; begin < batch.num_seqs();) {
    if (!IsSparse(spec, step, begin)) {
      ++begin;
      continue;
    }
    int32_t end = begin + 1;
    while (end < batch.num_seqs() && IsSparse(spec, step, end)) ++end;
    const auto tokens = [&](const auto& t) {
      return t.Slice(0, batch.cu_q[begin], batch.cu_q[end]);
    };
    const LinearTarget q_target{weights.q.w, weights.q.bias, tokens(q)};
    const LinearTarget weight_target{weights.head_weights.w, weights.head_weights.bias,
                                     tokens(head_weights)};
    MLA_RETURN_IF_ERROR(Linear({.x = tokens(q_latent), .targets = {&q_target, 1}}, step.context));
    MLA_RETURN_IF_ERROR(Linear({.x = tokens(x), .targets = {&weight_target, 1}}, step.context));
    MLA_RETURN_IF_ERROR(Rotate(spec, tokens(q), spec.heads, tokens(turns), step));
    MLA_RETURN_IF_ERROR(Scale(
        {.x = tokens(head_weights), .scale = scale, .y = tokens(head_weights)}, step.context));
    MlaIndexTopkArgs args;
    args.q = Tensor(q.data(), DType::kF32, {x.dim(0), spec.heads, spec.head_dim});
    args.weights = head_weights;
    args.cache = IndexKeys(layer, step);
    args.batch = batch.Paged(begin, end);
    args.top_k = spec.top_k;
    args.indices = indices;
    MLA_RETURN_IF_ERROR(MlaIndexTopk(args, step.context));
    begin = end;
  }
  return {};
}

}  // namespace mla
