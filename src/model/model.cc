#include "model/model.h"

#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/check.h"
#include "io/config.h"
#include "mla/elementwise.h"
#include "mla/linear.h"
#include "model/families/registry.h"

namespace mla {
namespace {

// Takes back what a failed step had added to the caches.
class CacheRollback {
 public:
  explicit CacheRollback(std::span<const SequenceInput> sequences) : sequences_(sequences) {
    for (const SequenceInput& s : sequences) lengths_.push_back(s.cache->length());
  }
  ~CacheRollback() {
    if (done_) return;
    for (size_t i = 0; i < sequences_.size(); ++i) sequences_[i].cache->Truncate(lengths_[i]);
  }
  CacheRollback(const CacheRollback&) = delete;
  CacheRollback& operator=(const CacheRollback&) = delete;
  void Keep() { done_ = true; }

 private:
  std::span<const SequenceInput> sequences_;
  std::vector<int32_t> lengths_;
  bool done_ = false;
};

// The rope tables of a step, one for each way of rotating that its layers have.
class RopeTables {
 public:
  explicit RopeTables(const StepContext& step) : step_(step) {}

  Result<ConstTensor> Get(const RopeSpec& rope) {
    if (const auto found = tables_.find(&rope); found != tables_.end()) return found->second;
    const Tensor turns = NewTensor(
        step_.workspace, {step_.batch.num_tokens(), 2, static_cast<int64_t>(rope.inv_freq.size())});
    MLA_RETURN_IF_ERROR(RopeTable({.positions = step_.batch.positions,
                                   .inv_freq = rope.inv_freq,
                                   .magnitude = rope.magnitude,
                                   .turns = turns},
                                  step_.context));
    tables_.emplace(&rope, turns);
    return ConstTensor(turns);
  }

 private:
  const StepContext& step_;
  std::map<const RopeSpec*, ConstTensor> tables_;
};

Status CheckTokens(const ModelSpec& spec, std::span<const SequenceInput> sequences) {
  for (const SequenceInput& sequence : sequences) {
    for (int32_t id : sequence.tokens) {
      if (id < 0 || id >= spec.vocab_size) {
        return InvalidArgument("token id ", id, " is out of range, want 0 to ",
                               spec.vocab_size - 1);
      }
    }
    const int64_t length = sequence.cache->length() + static_cast<int64_t>(sequence.tokens.size());
    if (length > spec.max_positions) {
      return InvalidArgument("a sequence of ", length,
                             " tokens is longer than the model's context, ", spec.max_positions);
    }
  }
  return {};
}

}  // namespace

int64_t NumLogitRows(std::span<const SequenceInput> sequences, LogitsFor logits_for) {
  int64_t rows = 0;
  for (const SequenceInput& sequence : sequences) {
    const auto tokens = static_cast<int64_t>(sequence.tokens.size());
    if (logits_for == LogitsFor::kAll) rows += tokens;
    if (logits_for == LogitsFor::kLast && tokens > 0) rows += 1;
  }
  return rows;
}

Result<std::unique_ptr<Model>> Model::Load(const std::string& dir) {
  MLA_ASSIGN_OR_RETURN(const nlohmann::json config, ReadConfigFile(dir));
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadModelSpec(config));
  MLA_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(dir));
  std::unique_ptr<Model> model(new Model(std::move(spec), std::move(checkpoint)));
  Result<ModelWeights> weights = BindWeights(model->spec_, model->checkpoint_);
  if (!weights.ok()) return CorruptFile(dir, ": ", weights.message());
  model->weights_ = *std::move(weights);
  return model;
}

Status Model::Forward(const ForwardArgs& args, KvCache& cache, const Context& context) const {
  MLA_RETURN_IF_ERROR(CheckTokens(spec_, args.sequences));
  CacheRollback rollback(args.sequences);
  for (const SequenceInput& sequence : args.sequences) {
    MLA_RETURN_IF_ERROR(sequence.cache->Extend(static_cast<int32_t>(sequence.tokens.size())));
  }
  const StepBatch batch = BuildBatch(args.sequences, cache.options().page_size);
  if (batch.num_tokens() == 0) return {};

  ScopedWorkspace workspace(context.workspace);
  Context shared = context;  // the operators take their scratch memory from the same workspace
  shared.workspace = &*workspace;
  const StepContext step{batch, cache, shared, *workspace, args.form};
  const Tensor hidden = NewTensor(step.workspace, {batch.num_tokens(), spec_.hidden_size});
  MLA_RETURN_IF_ERROR(
      Embedding({.table = weights_.embedding, .ids = batch.ids, .y = hidden}, shared));
  MLA_RETURN_IF_ERROR(RunLayers(args, step, hidden));
  MLA_RETURN_IF_ERROR(WriteLogits(args, step, hidden));
  rollback.Keep();
  return {};
}

Status Model::RunLayers(const ForwardArgs& args, const StepContext& step,
                        const Tensor& hidden) const {
  const Tensor normed = NewTensor(step.workspace, {hidden.dim(0), hidden.dim(1)});
  RopeTables tables(step);
  for (size_t i = 0; i < spec_.layers.size(); ++i) {
    if (args.observer) args.observer(i, hidden);
    const LayerSpec& layer = spec_.layers[i];
    const LayerWeights& weights = weights_.layers[i];
    MLA_RETURN_IF_ERROR(
        RmsNorm({.x = hidden, .w = weights.attention_norm, .eps = spec_.norm_eps, .y = normed},
                step.context));
    if (const auto* mla = std::get_if<MlaSpec>(&layer.attention)) {
      MLA_ASSIGN_OR_RETURN(const ConstTensor turns, tables.Get(*mla->rope));
      MLA_RETURN_IF_ERROR(
          RunMla(*mla, std::get<MlaWeights>(weights.attention), i, turns, normed, hidden, step));
    } else {
      const auto& gqa = std::get<GqaSpec>(layer.attention);
      MLA_ASSIGN_OR_RETURN(const ConstTensor turns, tables.Get(*gqa.rope));
      MLA_RETURN_IF_ERROR(
          RunGqa(gqa, std::get<GqaWeights>(weights.attention), i, turns, normed, hidden, step));
    }
    MLA_RETURN_IF_ERROR(RmsNorm(
        {.x = hidden, .w = weights.mlp_norm, .eps = spec_.norm_eps, .y = normed}, step.context));
    if (const auto* moe = std::get_if<MoeSpec>(&layer.mlp)) {
      MLA_RETURN_IF_ERROR(RunMoe(*moe, std::get<MoeWeights>(weights.mlp), normed, hidden, step));
    } else {
      MLA_RETURN_IF_ERROR(
          RunDenseMlp(std::get<DenseMlpWeights>(weights.mlp), normed, hidden, step));
    }
  }
  return {};
}

Status Model::WriteLogits(const ForwardArgs& args, const StepContext& step,
                          const Tensor& hidden) const {
  if (args.observer) {
    const Tensor normed = NewTensor(step.workspace, {hidden.dim(0), hidden.dim(1)});
    MLA_RETURN_IF_ERROR(RmsNorm(
        {.x = hidden, .w = weights_.final_norm, .eps = spec_.norm_eps, .y = normed}, step.context));
    args.observer(spec_.layers.size(), normed);
  }
  if (args.logits_for == LogitsFor::kNone) return {};
  Tensor rows = hidden;
  if (args.logits_for == LogitsFor::kLast) {
    std::vector<int32_t> last;
    for (int32_t s = 0; s < step.batch.num_seqs(); ++s) {
      if (step.batch.cu_q[s + 1] > step.batch.cu_q[s]) last.push_back(step.batch.cu_q[s + 1] - 1);
    }
    rows = NewTensor(step.workspace, {static_cast<int64_t>(last.size()), hidden.dim(1)});
    MLA_RETURN_IF_ERROR(GatherRows({.x = hidden, .rows = last, .y = rows}, step.context));
  }
  MLA_RETURN_IF_ERROR(RmsNorm(
      {.x = rows, .w = weights_.final_norm, .eps = spec_.norm_eps, .y = rows}, step.context));
  const LinearTarget target{weights_.lm_head, {}, args.logits};
  return Linear({.x = rows, .targets = {&target, 1}}, step.context);
}

}  // namespace mla
