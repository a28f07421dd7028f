// One attention layer of each kind, with random weights.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <memory>

#include "apps/compare.h"
#include "apps/output.h"
#include "apps/system_info.h"
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
    const float most = std::sqrt(3 / fan_in);  // uniform, of variance 1 / fan_in
    for (uint16_t& number : numbers) number = F32ToBf16(most * Uniform());
    const void* data = numbers.data();
    if (tensor.rank() == 1) tensor = ConstTensor(data, DType::kBF16, {tensor.dim(0)});
    if (tensor.rank() == 2)
      tensor = ConstTensor(data, DType::kBF16, {tensor.dim(0), tensor.dim(1)});
    if (tensor.rank() == 3) {
      tensor = ConstTensor(data, DType::kBF16, {tensor.dim(0), tensor.dim(1), tensor.dim(2)});
    }
  }

  // In [-1, 1). A big layer has 10^8 numbers and more: standard distributions take too long.
  float Uniform() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<int32_t>(state_ >> 32)) * 0x1p-31f;
  }

  std::deque<std::vector<uint16_t>> storage_;
  uint64_t state_ = 1;
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
                 options.v_head_dim};
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
    // What is cached does not depend on the depth: only what is missing is added.
    sequence_.Truncate(std::min(depth, sequence_.length()));
    for (int32_t have = sequence_.length(); have < depth; have = sequence_.length()) {
      MLA_RETURN_IF_ERROR(Step(std::min(depth - have, SessionOptions().prefill_chunk)));
    }
    for (int run = -1; run < 3; ++run) {  // -1: to warm up
      sequence_.Truncate(depth);
      const auto start = Clock::now();
      for (int32_t s = 0; s < steps; ++s) MLA_RETURN_IF_ERROR(Step(tokens));
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (run >= 0) best = std::min(best, seconds);
    }
    sequence_.Truncate(depth);
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

constexpr int32_t kPrefill = 256;
constexpr int32_t kSteps = 16;

Status CheckDimensions(const LayerOptions& o) {
  if (o.heads % o.kv_heads != 0) {
    return InvalidArgument("--kv-heads is ", o.kv_heads, ", want a divisor of ", o.heads,
                           ", the heads");
  }
  if (o.head_dim % 2 != 0 || o.qk_rope_head_dim % 2 != 0) {
    return InvalidArgument("--head-dim is ", o.head_dim, " and --rope-dim ", o.qk_rope_head_dim,
                           ", want even numbers, which RoPE can pair");
  }
  return {};
}

// The weights and the cache are all there at once.
Status CheckMemory(const std::string& kind, int64_t parameters, const KvCache& cache) {
  const int64_t available = ReadMemoryInfo().available_bytes;
  const double weights = 2 * static_cast<double>(parameters);
  const double cached =
      static_cast<double>(cache.options().num_pages) * static_cast<double>(cache.bytes_per_page());
  if (available <= 0 || weights + cached <= 0.9 * static_cast<double>(available)) return {};
  return InvalidArgument("the ", kind, " layer takes ", HumanBytes(weights), " of weights and ",
                         HumanBytes(cached), " of cache, and ",
                         HumanBytes(static_cast<double>(available)),
                         " are available: want fewer heads, a smaller width or smaller depths");
}

int32_t LargestDivisor(int32_t number, int32_t most) {
  int32_t divisor = std::min(number, most);
  while (number % divisor != 0) --divisor;
  return divisor;
}

Result<LayerRun> MeasureLayer(const std::string& kind, const LayerOptions& options,
                              const Advance& advance) {
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
  MLA_RETURN_IF_ERROR(CheckMemory(kind, run.parameters, *cache));
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

LayerOptions LayersLike(const ModelSpec& spec) {
  constexpr int32_t kKvHeads = 8;
  LayerOptions options;
  options.hidden = spec.hidden_size;
  const AttentionSpec& attention = spec.layers.front().attention;
  if (const auto* mla = std::get_if<MlaSpec>(&attention)) {
    options.heads = mla->shape.heads;
    options.head_dim = mla->shape.qk_nope_head_dim;
    options.kv_heads = LargestDivisor(options.heads, kKvHeads);
    options.kv_lora_rank = mla->shape.kv_lora_rank;
    options.q_lora_rank = mla->q_lora_rank;
    options.qk_rope_head_dim = mla->shape.qk_rope_head_dim;
    options.v_head_dim = mla->shape.v_head_dim;
    return options;
  }
  const auto& gqa = std::get<GqaSpec>(attention);
  options.heads = gqa.heads;
  options.head_dim = gqa.head_dim;
  const bool is_gqa = gqa.kv_heads > 1 && gqa.kv_heads < gqa.heads;
  options.kv_heads = is_gqa ? gqa.kv_heads : LargestDivisor(gqa.heads, kKvHeads);
  options.kv_lora_rank = 4 * gqa.head_dim;
  options.qk_rope_head_dim = std::max(2, gqa.head_dim / 4 * 2);
  options.v_head_dim = gqa.head_dim;
  return options;
}

Result<std::vector<LayerRun>> CompareLayers(const LayerOptions& options, const Advance& advance) {
  MLA_RETURN_IF_ERROR(cpu::CurrentIsaError());
  MLA_RETURN_IF_ERROR(CheckDimensions(options));
  std::vector<LayerRun> runs;
  for (const char* kind : {"MHA", "GQA", "MQA", "MLA"}) {
    MLA_ASSIGN_OR_RETURN(LayerRun run, MeasureLayer(kind, options, advance));
    runs.push_back(std::move(run));
  }
  return runs;
}

}  // namespace mla
