// One attention layer of each kind, with random weights.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <memory>
#include <random>

#include "apps/compare.h"
#include "base/numeric.h"
#include "base/workspace.h"
#include "kernels/cpu/isa.h"
#include "mla/elementwise.h"
#include "model/accounting.h"
#include "model/layers.h"

namespace mla {
namespace {

// Random bf16 weights behind every view of a layer's attention.
class RandomWeights {
 public:
  void Fill(MlaWeights& w) {
    for (LinearWeight* linear : {&w.q, &w.q_a, &w.q_b, &w.kv_a, &w.o}) Fill(linear->w);
    for (ConstTensor* tensor : {&w.q_a_norm, &w.kv_a_norm, &w.w_uk, &w.w_uv}) Fill(*tensor);
  }
  void Fill(GqaWeights& w) {
    for (LinearWeight* linear : {&w.q, &w.k, &w.v, &w.o}) Fill(linear->w);
  }

 private:
  void Fill(ConstTensor& tensor) {
    if (!tensor.present()) return;
    std::vector<uint16_t>& numbers = storage_.emplace_back(tensor.num_elements());
    const auto fan_in = static_cast<float>(tensor.dim(tensor.rank() - 1));
    std::normal_distribution<float> normal(0, 1 / std::sqrt(fan_in));
    for (uint16_t& number : numbers) number = F32ToBf16(normal(random_));
    const void* data = numbers.data();
    if (tensor.rank() == 1) tensor = ConstTensor(data, DType::kBF16, {tensor.dim(0)});
    if (tensor.rank() == 2)
      tensor = ConstTensor(data, DType::kBF16, {tensor.dim(0), tensor.dim(1)});
    if (tensor.rank() == 3) {
      tensor = ConstTensor(data, DType::kBF16, {tensor.dim(0), tensor.dim(1), tensor.dim(2)});
    }
  }

  std::deque<std::vector<uint16_t>> storage_;
  std::mt19937 random_{1};
};

std::shared_ptr<const RopeSpec> MakeRope(int32_t dim) {
  auto rope = std::make_shared<RopeSpec>();
  for (int32_t i = 0; i < dim / 2; ++i) {
    rope->inv_freq.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / dim));
  }
  return rope;
}

// A model of one such layer; what is around the attention is not run.
ModelSpec OneLayer(const LayerOptions& options, AttentionSpec attention) {
  ModelSpec spec;
  spec.hidden_size = options.hidden;
  spec.vocab_size = 1;
  spec.layers.push_back({std::move(attention), DenseMlpSpec{1}, {}, {}});
  return spec;
}

AttentionSpec MakeAttention(const std::string& kind, const LayerOptions& options) {
  if (kind == "MLA") {
    MlaSpec mla;
    mla.shape = {options.heads, options.kv_lora_rank, options.head_dim, options.qk_rope_head_dim,
                 options.head_dim};
    mla.q_lora_rank = options.q_lora_rank;
    mla.scale = 1 / std::sqrt(static_cast<float>(options.head_dim + options.qk_rope_head_dim));
    mla.rope = MakeRope(options.qk_rope_head_dim);
    return mla;
  }
  GqaSpec gqa;
  gqa.heads = options.heads;
  gqa.kv_heads = kind == "MHA" ? options.heads : kind == "GQA" ? options.kv_heads : 1;
  gqa.head_dim = options.head_dim;
  gqa.scale = 1 / std::sqrt(static_cast<float>(options.head_dim));
  gqa.rope = MakeRope(options.head_dim);
  return gqa;
}

// The layer, its cache and one sequence in it.
class LayerMeter {
 public:
  LayerMeter(const LayerOptions& options, const ModelSpec& spec, KvCache& cache)
      : spec_(spec),
        cache_(cache),
        sequence_(&cache),
        layer_(WeightShapes(spec).layers[0]),
        threads_(options.threads > 0 ? options.threads : UsableCpus()) {
    std::visit([&](auto& attention) { random_.Fill(attention); }, layer_.attention);
    context_.threads = &threads_;
    context_.workspace = &workspace_;
    context_.compute = cpu::UsesAvx512Bf16() ? ComputeMode::kBF16 : ComputeMode::kF32;
  }

  Status Step(int32_t tokens) {
    const Workspace::Scope scope(workspace_);
    MLA_RETURN_IF_ERROR(sequence_.Extend(tokens));
    const std::vector<int32_t> ids(tokens, 0);
    const SequenceInput input{&sequence_, ids};
    const StepBatch batch = BuildBatch({&input, 1}, cache_.options().page_size);
    const StepContext step{batch, cache_, context_, workspace_};
    const Tensor x = NewTensor(workspace_, {tokens, spec_.hidden_size});
    const Tensor hidden = NewTensor(workspace_, {tokens, spec_.hidden_size});
    for (int64_t i = 0; i < x.num_elements(); ++i) {
      x.as<float>()[i] = static_cast<float>(i % 7) - 3;
      hidden.as<float>()[i] = 0;
    }
    const AttentionSpec& attention = spec_.layers[0].attention;
    const auto* mla = std::get_if<MlaSpec>(&attention);
    const RopeSpec& rope = mla != nullptr ? *mla->rope : *std::get<GqaSpec>(attention).rope;
    const Tensor turns =
        NewTensor(workspace_, {tokens, 2, static_cast<int64_t>(rope.inv_freq.size())});
    MLA_RETURN_IF_ERROR(RopeTable({.positions = batch.positions,
                                   .inv_freq = rope.inv_freq,
                                   .magnitude = rope.magnitude,
                                   .turns = turns},
                                  context_));
    if (mla != nullptr) {
      return RunMla(*mla, std::get<MlaWeights>(layer_.attention), 0, turns, x, hidden, step);
    }
    return RunGqa(std::get<GqaSpec>(attention), std::get<GqaWeights>(layer_.attention), 0, turns, x,
                  hidden, step);
  }

  // Tokens per second of `steps` steps of `tokens` after `depth`; the fastest of three runs.
  Result<SpeedPoint> Measure(int32_t depth, int32_t tokens, int32_t steps) {
    using Clock = std::chrono::steady_clock;
    double best = INFINITY;
    sequence_.Truncate(0);
    for (int32_t have = 0; have < depth; have = sequence_.length()) {
      MLA_RETURN_IF_ERROR(Step(std::min(depth - have, Session::kPrefillChunk)));
    }
    for (int run = 0; run < 3; ++run) {
      sequence_.Truncate(depth);
      const auto start = Clock::now();
      for (int32_t s = 0; s < steps; ++s) MLA_RETURN_IF_ERROR(Step(tokens));
      best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return SpeedPoint{depth, tokens, tokens * steps / best};
  }

 private:
  const ModelSpec& spec_;
  KvCache& cache_;
  CachedSequence sequence_;
  LayerWeights layer_;
  RandomWeights random_;
  ThreadPool threads_;
  Workspace workspace_;
  Context context_;
};

Result<LayerRun> MeasureLayer(const std::string& kind, const LayerOptions& options,
                              const Advance& advance) {
  constexpr int32_t kPrefill = 256;
  constexpr int32_t kSteps = 16;
  const ModelSpec spec = OneLayer(options, MakeAttention(kind, options));
  LayerRun run{kind, 0, 0, 0, {}};
  MLA_ASSIGN_OR_RETURN(const std::vector<WeightGroup> groups,
                       ListWeights(spec, WeightShapes(spec)));
  for (const ParameterKind& part : CountParameters(groups)) {
    if (part.name.starts_with("attention")) run.parameters += part.total;
  }
  KvCacheOptions cache_options;
  cache_options.layers = CacheSpecs(spec);
  const int32_t most = std::max(options.depths.empty() ? 0 : options.depths.back(), kPrefill);
  cache_options.num_pages = CeilDiv(most + kPrefill, cache_options.page_size);
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<KvCache> cache, KvCache::Create(cache_options));
  run.cache_bytes_per_token = cache->bytes_per_token();
  LayerMeter meter(options, spec, *cache);
  MLA_ASSIGN_OR_RETURN(const SpeedPoint prefill, meter.Measure(0, kPrefill, 1));
  run.prefill_tokens_per_second = prefill.tokens_per_second;
  for (const int32_t depth : options.depths) {
    MLA_ASSIGN_OR_RETURN(const SpeedPoint decode, meter.Measure(depth, 1, kSteps));
    run.decode.push_back(decode);
    advance();
  }
  return run;
}

}  // namespace

Result<std::vector<LayerRun>> CompareLayers(const LayerOptions& options, const Advance& advance) {
  MLA_RETURN_IF_ERROR(cpu::CurrentIsaError());
  std::vector<LayerRun> runs;
  for (const char* kind : {"MHA", "GQA", "MQA", "MLA"}) {
    MLA_ASSIGN_OR_RETURN(LayerRun run, MeasureLayer(kind, options, advance));
    runs.push_back(std::move(run));
  }
  return runs;
}

}  // namespace mla
