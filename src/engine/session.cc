#include "engine/session.h"

#include <algorithm>

#include "base/numeric.h"
#include "kernels/cpu/isa.h"
#include "mla/elementwise.h"

namespace mla {
namespace {

constexpr int kMaxThreads = 1024;

}  // namespace

ComputeMode DefaultComputeMode(const Model& model) {
  const auto suits = [](DType dtype) { return dtype == DType::kBF16 || IsQuantised(dtype); };
  const ModelWeights& weights = model.weights();
  const bool rounded = weights.decoded_to.has_value() && suits(*weights.decoded_to);
  const bool suitable =
      rounded || suits(weights.embedding.dtype()) || suits(weights.lm_head.dtype());
  return suitable && cpu::UsesAvx512Bf16() ? ComputeMode::kBF16 : ComputeMode::kF32;
}

Result<std::unique_ptr<Session>> Session::Create(const Model& model,
                                                 const SessionOptions& options) {
  const int32_t max_positions = model.spec().max_positions;
  if (options.context < 0 || options.context > max_positions) {
    return InvalidArgument("context is ", options.context, ", want 1 to ", max_positions,
                           ", the model's own");
  }
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return InvalidArgument("threads is ", options.threads, ", want 1 to ", kMaxThreads,
                           " (0: one per usable CPU)");
  }
  if (options.prefill_chunk < 1) {
    return InvalidArgument("prefill_chunk is ", options.prefill_chunk, ", want at least 1");
  }
  const int32_t context = options.context == 0 ? max_positions : options.context;
  const ComputeMode mode = options.compute.value_or(DefaultComputeMode(model));
  KvCacheOptions cache_options;
  cache_options.layers = CacheSpecs(model.spec(), options.form == AttentionForm::kMha);
  cache_options.dtype =
      options.kv_dtype.value_or(mode == ComputeMode::kF32 ? DType::kF32 : DType::kBF16);
  cache_options.page_size = options.page_size;
  cache_options.num_pages = options.page_size > 0 ? CeilDiv(context, options.page_size) : 0;
  MLA_ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, KvCache::Create(cache_options));
  return std::unique_ptr<Session>(new Session(model, std::move(cache), context, mode, options));
}

Session::Session(const Model& model, std::unique_ptr<KvCache> cache, int32_t context,
                 ComputeMode mode, const SessionOptions& options)
    : model_(model),
      cache_(std::move(cache)),
      sequence_(cache_.get()),
      context_(context),
      mode_(mode),
      form_(options.form),
      prefill_chunk_(options.prefill_chunk),
      threads_(options.threads == 0 ? UsableCpus() : options.threads) {}

Status Session::CheckRoom(size_t tokens) const {
  if (tokens > static_cast<size_t>(context_ - length())) {
    return InvalidArgument(tokens, " tokens do not fit: the context is ", context_, " and holds ",
                           length(), " already");
  }
  return {};
}

Status Session::Step(std::span<const int32_t> tokens, int32_t known_length, LogitsFor logits_for,
                     const Tensor& logits, std::function<bool(size_t layers)> progress) {
  const SequenceInput input{&sequence_, tokens, known_length};
  ForwardArgs args;
  args.sequences = {&input, 1};
  args.logits_for = logits_for;
  args.logits = logits;
  args.form = form_;
  args.progress = std::move(progress);
  Context context;
  context.threads = &threads_;
  context.workspace = &workspace_;
  context.compute = mode_;
  return model_.Forward(args, *cache_, context);
}

Status Session::Append(std::span<const int32_t> tokens,
                       const std::function<bool(int32_t done)>& progress) {
  MLA_RETURN_IF_ERROR(CheckRoom(tokens.size()));
  const int32_t before = length();
  const int32_t known_length = before + static_cast<int32_t>(tokens.size());
  const int64_t vocab = model_.spec().vocab_size;
  const size_t layers = model_.spec().layers.size();
  for (size_t done = 0; done < tokens.size();) {
    const size_t count = std::min<size_t>(prefill_chunk_, tokens.size() - done);
    const bool last = done + count == tokens.size();
    if (last) logits_.resize(vocab);
    const Tensor logits(last ? logits_.data() : nullptr, DType::kF32, {1, vocab});
    std::function<bool(size_t)> after_layer;
    if (progress) {
      after_layer = [&](size_t n) {
        return progress(static_cast<int32_t>(done + count * n / layers));
      };
    }
    const Status status =
        Step(tokens.subspan(done, count), known_length, last ? LogitsFor::kLast : LogitsFor::kNone,
             logits, std::move(after_layer));
    if (!status.ok()) {
      Truncate(before);
      return status;
    }
    done += count;
  }
  return {};
}

constexpr int32_t kRandomRows = 512;  // at a time

Status Session::AppendRandomRows(int32_t tokens, uint64_t seed) {
  MLA_RETURN_IF_ERROR(CheckRoom(static_cast<size_t>(tokens)));
  const int32_t before = length();
  MLA_RETURN_IF_ERROR(sequence_.Extend(tokens));
  logits_.clear();
  Context context;
  context.threads = &threads_;
  context.workspace = &workspace_;
  uint64_t state = seed;
  for (int32_t begin = before; begin < length(); begin += kRandomRows) {
    const int32_t count = std::min(kRandomRows, length() - begin);
    std::vector<int64_t> slots(count);
    for (int32_t i = 0; i < count; ++i) slots[i] = sequence_.SlotOf(begin + i);
    for (size_t layer = 0; layer < cache_->options().layers.size(); ++layer) {
      const LayerCacheSpec& components = cache_->options().layers[layer];
      for (size_t c = 0; c < components.size(); ++c) {
        std::vector<float> rows(count * components[c].row);
        for (float& x : rows) {
          state = state * 6364136223846793005U + 1442695040888963407U;
          x = static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-31F;
        }
        const Tensor pages = cache_->Component(layer, c);
        const Tensor all(pages.data(), pages.dtype(), {pages.dim(0) * pages.dim(1), pages.dim(2)});
        const ConstTensor x(rows.data(), DType::kF32, {count, components[c].row});
        MLA_RETURN_IF_ERROR(CacheWrite(
            {.x = x, .slots = slots, .cache = all, .kv_lora_rank = components[c].kv_lora_rank},
            context));
      }
    }
  }
  return {};
}

Status Session::Score(std::span<const int32_t> tokens, const LogitsSink& sink) {
  MLA_RETURN_IF_ERROR(CheckRoom(tokens.size()));
  const int32_t before = length();
  const int32_t known_length = before + static_cast<int32_t>(tokens.size());
  const int64_t vocab = model_.spec().vocab_size;
  // Bounds the logits in memory as well: a vocabulary can be far wider than the hidden state.
  const auto chunk = static_cast<size_t>(
      std::clamp<int64_t>((int64_t{64} << 20) / (vocab * 4), 1, prefill_chunk_));
  std::vector<float> logits(std::min(chunk, tokens.size()) * vocab);
  for (size_t done = 0; done < tokens.size();) {
    const size_t count = std::min(chunk, tokens.size() - done);
    const Tensor rows(logits.data(), DType::kF32, {static_cast<int64_t>(count), vocab});
    Status status = Step(tokens.subspan(done, count), known_length, LogitsFor::kAll, rows);
    if (status.ok()) status = sink(rows);
    if (!status.ok()) {
      Truncate(before);
      return status;
    }
    done += count;
  }
  logits_.clear();
  return {};
}

void Session::Truncate(int32_t length) {
  sequence_.Truncate(length);
  logits_.clear();
}

}  // namespace mla
