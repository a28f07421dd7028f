// A model: its spec, its weights, and one step of it over a batch of sequences. Written once for
// every device: it only calls operators.
#ifndef MLA_MODEL_MODEL_H_
#define MLA_MODEL_MODEL_H_

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "io/checkpoint.h"
#include "kvcache/kv_cache.h"
#include "mla/context.h"
#include "mla/result.h"
#include "mla/tensor.h"
#include "model/batch.h"
#include "model/layers.h"
#include "model/quantize.h"
#include "model/spec.h"
#include "model/weights.h"

namespace mla {

enum class LogitsFor {
  kNone,
  kLast,  // the last token of each sequence that has one
  kAll,   // every token
};

struct ForwardArgs {
  std::span<const SequenceInput> sequences;  // distinct caches, all of one KvCache
  LogitsFor logits_for = LogitsFor::kLast;
  Tensor logits;  // [NumLogitRows(...), vocab] f32
  AttentionForm form = AttentionForm::kAuto;
  // If set: called with (0, embedding), (i, output of layer i), and last with the output of the
  // last layer after the final norm: [tokens, hidden] f32 each, valid during the call.
  std::function<void(size_t layer, const ConstTensor& hidden)> observer;
  AttentionObserver attention_observer;  // may be empty
  // If set: told after each layer how many are done; false stops the step (kCancelled).
  std::function<bool(size_t layers)> progress;
};

int64_t NumLogitRows(std::span<const SequenceInput> sequences, LogitsFor logits_for);

class Model {
 public:
  // Loads a Hugging Face directory (config.json and safetensors) or a GGUF file. The weights stay
  // mapped and are not copied (gguf_model.h: exceptions), but for those that BindWeights decodes.
  // Errors name the file and what is wrong.
  static Result<std::unique_ptr<Model>> Load(const std::string& path, DType decoded = DType::kF32);

  // A model of these weights. kCorruptFile lists what of the checkpoint does not fit the spec.
  static Result<std::unique_ptr<Model>> Create(ModelSpec spec, Checkpoint checkpoint,
                                               DType decoded = DType::kF32);

  // Turns weights into block types in memory (quantize.h). Not to be called while the model runs.
  QuantiseReport Quantise(const QuantiseOptions& options) {
    return QuantiseWeights(options, weights_);
  }

  const ModelSpec& spec() const { return spec_; }
  const ModelWeights& weights() const { return weights_; }
  const Checkpoint& checkpoint() const { return checkpoint_; }

  // Runs the new tokens of every sequence and adds their rows to `cache`. On error the sequences
  // are as before. kInvalidArgument for ids outside the vocabulary and positions beyond
  // max_positions; kOutOfPages if the cache is full. Thread-safe for distinct caches and contexts.
  Status Forward(const ForwardArgs& args, KvCache& cache, const Context& context) const;

 private:
  Model(ModelSpec spec, Checkpoint checkpoint)
      : spec_(std::move(spec)), checkpoint_(std::move(checkpoint)) {}

  Status RunLayers(const ForwardArgs& args, const StepContext& step, const Tensor& hidden) const;
  Status WriteLogits(const ForwardArgs& args, const StepContext& step, const Tensor& hidden) const;

  ModelSpec spec_;
  Checkpoint checkpoint_;
  ModelWeights weights_;  // views of checkpoint_, and memory of its own
};

}  // namespace mla

#endif  // MLA_MODEL_MODEL_H_
