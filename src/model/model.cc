#include "model/model.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/check.h"
#include "io/config.h"
#include "mla/elementwise.h"
#include "mla/linear.h"
#include "model/families/registry.h"
#include "model/gguf_model.h"

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
    if (rope.long_inv_freq.empty()) {
      MLA_RETURN_IF_ERROR(Fill(rope, rope.inv_freq, 0, step_.batch.num_tokens(), turns));
    } else {
      for (int32_t s = 0; s < step_.batch.num_seqs(); ++s) {
        const bool is_long = step_.batch.known_lens[s] > rope.original_context;
        MLA_RETURN_IF_ERROR(Fill(rope, is_long ? rope.long_inv_freq : rope.inv_freq,
                                 step_.batch.cu_q[s], step_.batch.cu_q[s + 1], turns));
      }
    }
    tables_.emplace(&rope, turns);
    return ConstTensor(turns);
  }

 private:
  // Tokens [begin, end) of the table.
  Status Fill(const RopeSpec& rope, const std::vector<float>& inv_freq, int64_t begin, int64_t end,
              const Tensor& turns) {
    const std::span<const int32_t> positions(step_.batch.positions);
    return RopeTable({.positions = positions.subspan(begin, end - begin),
                      .inv_freq = inv_freq,
                      .magnitude = rope.magnitude,
                      .turns = turns.Slice(0, begin, end)},
                     step_.context);
  }

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

const RopeSpec& RopeOf(const AttentionSpec& attention) {
  if (const auto* mla = std::get_if<MlaSpec>(&attention)) return *mla->rope;
  return *std::get<GqaSpec>(attention).rope;
}

Status RunAttention(const LayerSpec& layer, const LayerWeights& weights, size_t index,
                    const ConstTensor& turns, const ConstTensor& x, const Tensor& hidden,
                    const StepContext& step) {
  if (const auto* mla = std::get_if<MlaSpec>(&layer.attention)) {
    return RunMla(*mla, std::get<MlaWeights>(weights.attention), index, turns, x, hidden, step);
  }
  return RunGqa(std::get<GqaSpec>(layer.attention), std::get<GqaWeights>(weights.attention), index,
                turns, x, hidden, step);
}

Status RunMlp(const LayerSpec& layer, const LayerWeights& weights, const ConstTensor& x,
              const Tensor& hidden, const StepContext& step) {
  if (const auto* moe = std::get_if<MoeSpec>(&layer.mlp)) {
    return RunMoe(*moe, std::get<MoeWeights>(weights.mlp), x, hidden, step);
  }
  return RunDenseMlp(std::get<DenseMlpWeights>(weights.mlp), x, hidden, step);
}

Tensor NewLike(const Tensor& t, const StepContext& step) {
  return NewTensor(step.workspace, {t.dim(0), t.dim(1)});
}

void Clear(const Tensor& t) { std::fill_n(t.as<float>(), t.num_elements(), 0.0f); }

// What the halves of a layer add to.
class ResidualStream {
 public:
  ResidualStream(const Tensor& hidden, float scale, const StepContext& step)
      : hidden_(hidden), scale_(scale), step_(step) {
    if (scale != 1) added_ = NewLike(hidden, step);
  }

  // hidden += scale * what run(tensor) adds to the tensor.
  template <typename Run>
  Status Add(const Run& run) {
    if (scale_ == 1) return run(hidden_);
    Clear(added_);
    MLA_RETURN_IF_ERROR(run(added_));
    return Scale({.x = added_, .scale = scale_, .accumulate = true, .y = hidden_}, step_.context);
  }

 private:
  Tensor hidden_, added_;
  float scale_;
  const StepContext& step_;
};

// The branch under way, if there is one: a model has one at a time.
class Branches {
 public:
  Branches(const StepContext& step, const Tensor& hidden) : step_(step), hidden_(hidden) {}

  Status Start(const BranchSpec& spec, const MoeWeights& weights, size_t layer,
               const ConstTensor& x) {
    MLA_CHECK(!running_, "layer ", layer, " starts a branch before the last has joined");
    if (!output_.present()) output_ = NewLike(hidden_, step_);
    Clear(output_);
    running_ = true;
    joins_at_ = layer + spec.joins_after;
    return RunMoe(spec.moe, weights, x, output_, step_);
  }

  // Adds the output of the branch that ends with layer `layer`.
  Status Join(size_t layer, float scale) {
    if (!running_ || layer != joins_at_) return {};
    running_ = false;
    return Scale({.x = output_, .scale = scale, .accumulate = true, .y = hidden_}, step_.context);
  }

 private:
  const StepContext& step_;
  Tensor hidden_, output_;
  bool running_ = false;
  size_t joins_at_ = 0;
};

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

Result<std::unique_ptr<Model>> Model::Load(const std::string& path, DType decoded) {
  if (IsGgufPath(path)) {
    MLA_ASSIGN_OR_RETURN(GgufModel gguf, LoadGgufModel(path));
    Result<std::unique_ptr<Model>> model =
        Create(std::move(gguf.spec), std::move(gguf.checkpoint), decoded);
    if (!model.ok()) return CorruptFile(path, ": ", model.message());
    return model;
  }
  MLA_ASSIGN_OR_RETURN(const nlohmann::json config, ReadConfigFile(path));
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadModelSpec(config));
  MLA_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(path));
  Result<std::unique_ptr<Model>> model = Create(std::move(spec), std::move(checkpoint), decoded);
  if (!model.ok()) return CorruptFile(path, ": ", model.message());
  return model;
}

Result<std::unique_ptr<Model>> Model::Create(ModelSpec spec, Checkpoint checkpoint, DType decoded) {
  std::unique_ptr<Model> model(new Model(std::move(spec), std::move(checkpoint)));
  MLA_ASSIGN_OR_RETURN(model->weights_, BindWeights(model->spec_, model->checkpoint_, decoded));
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
  StepContext step{batch, cache, shared, *workspace, args.form};
  std::vector<int32_t> selection;
  step.selection = &selection;
  if (args.attention_observer) step.attention_observer = &args.attention_observer;
  const Tensor hidden = NewTensor(step.workspace, {batch.num_tokens(), spec_.hidden_size});
  MLA_RETURN_IF_ERROR(
      Embedding({.table = weights_.embedding, .ids = batch.ids, .y = hidden}, shared));
  if (spec_.embedding_scale != 1) {
    MLA_RETURN_IF_ERROR(Scale({.x = hidden, .scale = spec_.embedding_scale, .y = hidden}, shared));
  }
  MLA_RETURN_IF_ERROR(RunLayers(args, step, hidden));
  MLA_RETURN_IF_ERROR(WriteLogits(args, step, hidden));
  rollback.Keep();
  return {};
}

Status Model::RunLayers(const ForwardArgs& args, const StepContext& step,
                        const Tensor& hidden) const {
  const Tensor normed = NewTensor(step.workspace, {hidden.dim(0), hidden.dim(1)});
  RopeTables tables(step);
  ResidualStream stream(hidden, spec_.residual_scale, step);
  Branches branches(step, hidden);
  const auto norm = [&](const ConstTensor& w) {
    return RmsNorm({.x = hidden, .w = w, .eps = spec_.norm_eps, .y = normed}, step.context);
  };
  for (size_t i = 0; i < spec_.layers.size(); ++i) {
    if (args.observer) args.observer(i, hidden);
    const LayerSpec& layer = spec_.layers[i];
    const LayerWeights& weights = weights_.layers[i];
    MLA_RETURN_IF_ERROR(norm(weights.attention_norm));
    MLA_ASSIGN_OR_RETURN(const ConstTensor turns, tables.Get(RopeOf(layer.attention)));
    MLA_RETURN_IF_ERROR(stream.Add([&](const Tensor& to) {
      return RunAttention(layer, weights, i, turns, normed, to, step);
    }));
    MLA_RETURN_IF_ERROR(norm(weights.mlp_norm));
    if (layer.branch)
      MLA_RETURN_IF_ERROR(branches.Start(*layer.branch, *weights.branch, i, normed));
    MLA_RETURN_IF_ERROR(
        stream.Add([&](const Tensor& to) { return RunMlp(layer, weights, normed, to, step); }));
    MLA_RETURN_IF_ERROR(branches.Join(i, spec_.residual_scale));
    if (args.progress && !args.progress(i + 1)) {
      return Error{ErrorCode::kCancelled,
                   Concat("stopped after ", i + 1, " of ", spec_.layers.size(), " layers")};
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
  if (spec_.logit_scale != 1) {
    MLA_RETURN_IF_ERROR(Scale({.x = rows, .scale = spec_.logit_scale, .y = rows}, step.context));
  }
  const LinearTarget target{weights_.lm_head, {}, args.logits};
  return Linear({.x = rows, .targets = {&target, 1}}, step.context);
}

}  // namespace mla
