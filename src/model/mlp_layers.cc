#include <vector>

#include "mla/elementwise.h"
#include "mla/linear.h"
#include "model/layers.h"

namespace mla {
namespace {

// The routed rows of a step, sorted by expert and within an expert by token.
struct ExpertRows {
  std::vector<int32_t> offsets;  // [experts + 1]
  std::vector<int32_t> tokens;   // [tokens * top_k]: which token each sorted row is
  std::vector<int32_t> rows;     // [tokens, top_k]: where each choice went
};

ExpertRows SortByExpert(std::span<const int32_t> experts, int32_t num_experts, int32_t top_k) {
  ExpertRows sorted;
  sorted.offsets.assign(num_experts + 1, 0);
  for (int32_t expert : experts) ++sorted.offsets[expert + 1];
  for (int32_t e = 0; e < num_experts; ++e) sorted.offsets[e + 1] += sorted.offsets[e];
  std::vector<int32_t> next(sorted.offsets.begin(), sorted.offsets.end() - 1);
  sorted.tokens.resize(experts.size());
  sorted.rows.resize(experts.size());
  for (size_t i = 0; i < experts.size(); ++i) {
    const int32_t row = next[experts[i]]++;
    sorted.tokens[row] = static_cast<int32_t>(i / top_k);
    sorted.rows[i] = row;
  }
  return sorted;
}

// x [rows, hidden], sorted by expert: in the experts' input, out their output.
Status RunExperts(const MoeSpec& spec, const MoeWeights& weights, std::span<const int32_t> offsets,
                  const Tensor& x, const StepContext& step) {
  const Tensor gate = NewTensor(step.workspace, {x.dim(0), spec.intermediate});
  const Tensor up = NewTensor(step.workspace, {x.dim(0), spec.intermediate});
  const GroupedTarget in_targets[] = {{weights.gate, gate}, {weights.up, up}};
  MLA_RETURN_IF_ERROR(
      GroupedLinear({.x = x, .offsets = offsets, .targets = in_targets}, step.context));
  MLA_RETURN_IF_ERROR(SiluMul({.gate = gate, .up = up, .y = gate}, step.context));
  const GroupedTarget out_target{weights.down, x};
  return GroupedLinear({.x = gate, .offsets = offsets, .targets = {&out_target, 1}}, step.context);
}

}  // namespace

Status RunDenseMlp(const DenseMlpWeights& weights, const ConstTensor& x, const Tensor& hidden,
                   const StepContext& step) {
  const Workspace::Scope scope(step.workspace);
  const Tensor gate = NewTensor(step.workspace, {x.dim(0), weights.gate.w.dim(0)});
  const Tensor up = NewTensor(step.workspace, {x.dim(0), weights.up.w.dim(0)});
  const LinearTarget targets[] = {{weights.gate.w, weights.gate.bias, gate},
                                  {weights.up.w, weights.up.bias, up}};
  MLA_RETURN_IF_ERROR(Linear({.x = x, .targets = targets}, step.context));
  MLA_RETURN_IF_ERROR(SiluMul({.gate = gate, .up = up, .y = gate}, step.context));
  const LinearTarget down{weights.down.w, weights.down.bias, hidden};
  return Linear({.x = gate, .targets = {&down, 1}, .accumulate = true}, step.context);
}

Status RunMoe(const MoeSpec& spec, const MoeWeights& weights, const ConstTensor& x,
              const Tensor& hidden, const StepContext& step) {
  const int64_t tokens = x.dim(0);
  const int64_t rows = tokens * spec.top_k;
  const int32_t routed = spec.num_experts + spec.identity_experts;
  const Workspace::Scope scope(step.workspace);
  const Tensor logits = NewTensor(step.workspace, {tokens, routed});
  // In fp32 whatever the mode: a rounded logit could choose another expert.
  Context exact = step.context;
  exact.compute = ComputeMode::kF32;
  const LinearTarget router{weights.router, {}, logits};
  MLA_RETURN_IF_ERROR(Linear({.x = x, .targets = {&router, 1}}, exact));

  std::vector<int32_t> experts(rows);
  std::vector<float> expert_weights(rows);
  MLA_RETURN_IF_ERROR(Route({.logits = logits,
                             .bias = weights.correction_bias,
                             .scoring = spec.scoring,
                             .group_score = spec.group_score,
                             .num_groups = spec.num_groups,
                             .topk_groups = spec.topk_groups,
                             .top_k = spec.top_k,
                             .normalize = spec.normalize,
                             .scaling = spec.scaling,
                             .experts = experts,
                             .weights = expert_weights},
                            step.context));
  const ExpertRows sorted = SortByExpert(experts, routed, spec.top_k);

  const Tensor sorted_x = NewTensor(step.workspace, {rows, x.dim(1)});
  MLA_RETURN_IF_ERROR(GatherRows({.x = x, .rows = sorted.tokens, .y = sorted_x}, step.context));
  // The rows of identity experts come last and are their own output.
  const std::span<const int32_t> offsets(sorted.offsets.data(), spec.num_experts + 1);
  MLA_RETURN_IF_ERROR(
      RunExperts(spec, weights, offsets, sorted_x.Slice(0, 0, offsets.back()), step));
  MLA_RETURN_IF_ERROR(CombineExperts(
      {.x = sorted_x, .rows = sorted.rows, .weights = expert_weights, .y = hidden}, step.context));
  if (weights.shared) return RunDenseMlp(*weights.shared, x, hidden, step);
  return {};
}

}  // namespace mla
