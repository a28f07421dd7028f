// One sequence of a model: its cache, its threads and the logits after its last token.
#ifndef MLA_ENGINE_SESSION_H_
#define MLA_ENGINE_SESSION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/threads.h"
#include "base/workspace.h"
#include "kvcache/kv_cache.h"
#include "mla/result.h"
#include "model/model.h"

namespace mla {

struct SessionOptions {
  int32_t context = 0;  // most tokens to hold; 0: the model's max_positions
  // f32, f16, bf16, or i8: int8 latents. Default: f32 in f32 mode, bf16 in bf16 mode.
  std::optional<DType> kv_dtype;
  int32_t page_size = 64;  // tokens per page of the cache, 1 to 256
  AttentionForm form = AttentionForm::kAuto;
  // Default: bf16 where the CPU has bf16 dot products and weights are bf16 or quantised, else f32.
  std::optional<ComputeMode> compute;
  int threads = 0;  // 0: as many as the CPUs this process may use
  // Tokens of a prompt per step, which bounds the memory for activations: 2,048 take 0.35 GB
  // with the dims of DeepSeek-V2-Lite, 0.64 GB with those of DeepSeek-V3. With fewer, experts have
  // few rows each, and keys before the step are expanded more often.
  int32_t prefill_chunk = 2048;
};

// The mode a session takes when none is asked for.
ComputeMode DefaultComputeMode(const Model& model);

// Not thread-safe. The model must outlive the session.
class Session {
 public:
  // kInvalidArgument for options out of range (context beyond the model's among them).
  static Result<std::unique_ptr<Session>> Create(const Model& model, const SessionOptions& options);

  // Runs `tokens` (in chunks), after which logits() are those of the last one. `progress`, if set,
  // is told after each layer how many tokens are done, those of a chunk under way by its share of
  // layers; it returns false to stop: kCancelled.
  // kInvalidArgument, and the session is as before, if they do not fit. After any other error the
  // tokens held are those before, and logits() is empty.
  Status Append(std::span<const int32_t> tokens,
                const std::function<bool(int32_t done)>& progress = nullptr);

  // Adds tokens whose cached rows are random, uniform in [-1, 1): what follows costs what it costs
  // after a text of that length, and means nothing. For measuring; logits() becomes empty.
  Status AppendRandomRows(int32_t tokens, uint64_t seed);

  // As Append, and hands the logits of each chunk's tokens, [n, vocab] f32, to `sink` in order,
  // whose errors it returns; logits() becomes empty.
  using LogitsSink = std::function<Status(const ConstTensor& logits)>;
  Status Score(std::span<const int32_t> tokens, const LogitsSink& sink);

  std::span<const float> logits() const { return logits_; }  // [vocab]; empty before any token

  int32_t length() const { return sequence_.length(); }  // tokens in the cache
  int32_t context() const { return context_; }
  int32_t prefill_chunk() const { return prefill_chunk_; }  // tokens
  // Forgets the tokens from `length` on; logits() becomes empty.
  void Truncate(int32_t length);

  const Model& model() const { return model_; }
  const KvCache& cache() const { return *cache_; }
  int64_t cache_bytes() const { return sequence_.bytes(); }  // of the tokens held
  ComputeMode compute() const { return mode_; }
  int threads() const { return threads_.num_threads(); }
  ThreadPool& thread_pool() { return threads_; }  // for what is done between two steps

 private:
  Session(const Model& model, std::unique_ptr<KvCache> cache, int32_t context, ComputeMode mode,
          const SessionOptions& options);
  Status CheckRoom(size_t tokens) const;
  // `known_length`: what the sequence reaches with all the chunks of this call.
  Status Step(std::span<const int32_t> tokens, int32_t known_length, LogitsFor logits_for,
              const Tensor& logits, std::function<bool(size_t layers)> progress = nullptr);

  const Model& model_;
  std::unique_ptr<KvCache> cache_;
  CachedSequence sequence_;
  int32_t context_;
  ComputeMode mode_;
  AttentionForm form_;
  int32_t prefill_chunk_;
  ThreadPool threads_;
  Workspace workspace_;
  std::vector<float> logits_;
};

}  // namespace mla

#endif  // MLA_ENGINE_SESSION_H_
