#include "apps/compare.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>

#include "apps/text_pieces.h"
#include "dispatch/mla_cost.h"
#include "engine/perplexity.h"
#include "engine/sampler.h"
#include "mla/attention.h"

namespace mla {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int32_t kGreedyTokens = 24;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<AttentionForm> FormsOf(const Model& model) {
  const auto& layers = model.spec().layers;
  const bool mla = std::any_of(layers.begin(), layers.end(), [](const LayerSpec& layer) {
    return std::holds_alternative<MlaSpec>(layer.attention);
  });
  if (!mla) return {AttentionForm::kAuto};
  return {AttentionForm::kAbsorbed, AttentionForm::kExpanded, AttentionForm::kMha};
}

std::string NameOf(AttentionForm form) {
  switch (form) {
    case AttentionForm::kAbsorbed: return "absorbed";
    case AttentionForm::kExpanded: return "expanded";
    case AttentionForm::kMha: return "mha";
    case AttentionForm::kAuto: break;
  }
  return "own";
}

std::vector<int32_t> ChunkSizes(int32_t context) {
  std::vector<int32_t> sizes;
  for (int32_t size = 1; size <= 256 && 2 * size <= context; size *= 2) sizes.push_back(size);
  return sizes;
}

// Measures one session; tokens are random.
class Meter {
 public:
  Meter(Session& session, int32_t repetitions) : session_(session), repetitions_(repetitions) {
    std::mt19937 random(1);
    const auto vocab = static_cast<uint32_t>(session.model().spec().vocab_size);
    for (int32_t i = 0; i < session.context(); ++i) {
      ids_.push_back(static_cast<int32_t>(random() % vocab));
    }
  }

  // `steps` steps of `tokens` each after `depth` tokens; the fastest of the repetitions.
  Result<SpeedPoint> Measure(int32_t depth, int32_t tokens, int32_t steps) {
    session_.Truncate(std::min(depth, session_.length()));
    const int32_t have = session_.length();
    if (depth > have) {
      MLA_RETURN_IF_ERROR(session_.Append(std::span(ids_).subspan(have, depth - have)));
    }
    double best = INFINITY;
    for (int32_t i = -1; i < repetitions_; ++i) {  // -1: to warm up
      session_.Truncate(depth);
      const auto start = Clock::now();
      for (int32_t s = 0; s < steps; ++s) {
        MLA_RETURN_IF_ERROR(session_.Append(std::span(ids_).subspan(depth + s * tokens, tokens)));
      }
      if (i >= 0) best = std::min(best, SecondsSince(start));
    }
    session_.Truncate(depth);
    return SpeedPoint{depth, tokens, tokens * steps / best};
  }

 private:
  Session& session_;
  int32_t repetitions_;
  std::vector<int32_t> ids_;  // [context]
};

// The prompt, and the likeliest tokens after it; `logits` are those after the prompt.
Status RunGreedy(Session& session, std::span<const int32_t> prompt, FormRun& run,
                 std::vector<float>& logits) {
  session.Truncate(0);
  MLA_RETURN_IF_ERROR(session.Append(prompt));
  logits.assign(session.logits().begin(), session.logits().end());
  while (true) {
    // Also of the last token's, which nothing follows: what is compared must be numbers.
    MLA_ASSIGN_OR_RETURN(const int32_t id, MostLikely(session.logits()));
    if (std::ssize(run.greedy) == kGreedyTokens || session.length() == session.context()) break;
    run.greedy.push_back(id);
    MLA_RETURN_IF_ERROR(session.Append({&id, 1}));
  }
  return {};
}

Result<std::vector<SpeedPoint>> MeasureDecode(Session& session, const CompareOptions& options,
                                              const Advance& advance) {
  Meter meter(session, options.repetitions);
  std::vector<SpeedPoint> decode;
  for (const int32_t depth : options.depths) {
    const int32_t steps = std::min(options.decode_tokens, session.context() - depth);
    if (steps > 0) {
      MLA_ASSIGN_OR_RETURN(const SpeedPoint point, meter.Measure(depth, 1, steps));
      decode.push_back(point);
    }
    advance();
  }
  return decode;
}

Status MeasureForm(Session& session, const CompareOptions& options, const Advance& advance,
                   FormRun& run) {
  Meter meter(session, options.repetitions);
  for (const int32_t depth : options.depths) {
    if (depth > 0) {
      MLA_ASSIGN_OR_RETURN(const SpeedPoint prefill, meter.Measure(0, depth, 1));
      run.prefill.push_back(prefill);
    }
    advance();
  }
  MLA_ASSIGN_OR_RETURN(run.decode, MeasureDecode(session, options, advance));
  const int32_t depth = session.context() / 2;
  for (const int32_t size : ChunkSizes(session.context())) {
    MLA_ASSIGN_OR_RETURN(const SpeedPoint chunk, meter.Measure(depth, size, 1));
    run.chunks.push_back(chunk);
    advance();
  }
  return {};
}

void FindCrossovers(const Model& model, MlaArithmetic arithmetic, FormComparison& comparison) {
  if (comparison.runs.size() < 2) return;
  const auto& absorbed = comparison.runs[0].chunks;
  const auto& expanded = comparison.runs[1].chunks;
  // From the largest down: noise among small steps is no crossover.
  for (size_t i = absorbed.size(); i-- > 0;) {
    if (expanded[i].tokens_per_second <= absorbed[i].tokens_per_second) break;
    comparison.crossover = absorbed[i].tokens;
  }
  for (const LayerSpec& layer : model.spec().layers) {
    const auto* mla = std::get_if<MlaSpec>(&layer.attention);
    if (mla == nullptr) continue;
    if (mla->indexer) comparison.top_k = mla->indexer->top_k;
    for (int32_t q = 1; q <= 4096 && comparison.chosen_crossover == 0; ++q) {
      if (ChooseMlaForm(mla->shape, q, comparison.chunk_depth + q, arithmetic) ==
          MlaForm::kExpanded) {
        comparison.chosen_crossover = q;
      }
    }
    return;
  }
}

}  // namespace

int64_t FormSteps(const Model& model, const CompareOptions& options) {
  const int32_t context =
      options.session.context > 0 ? options.session.context : model.spec().max_positions;
  return std::ssize(FormsOf(model)) *
         (2 * std::ssize(options.depths) + std::ssize(ChunkSizes(context)) + 1);
}

Result<FormComparison> CompareForms(const Model& model, const std::vector<int32_t>& prompt,
                                    const CompareOptions& options, const Advance& advance) {
  FormComparison comparison;
  MlaArithmetic arithmetic{};
  std::vector<float> first_logits;
  for (const AttentionForm form : FormsOf(model)) {
    SessionOptions session_options = options.session;
    session_options.form = form;
    // Keys and values of heads have no int8 form: beside int8 latents they are what is usual.
    if (form == AttentionForm::kMha && session_options.kv_dtype) {
      session_options.kv_dtype = PlainCacheDType(*session_options.kv_dtype);
    }
    MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                         Session::Create(model, session_options));
    FormRun run;
    run.form = NameOf(form);
    run.kv_dtype = CacheDTypeName(session->cache().options().dtype);
    arithmetic = MlaArithmeticOf(session->compute(), session->cache().options().dtype);
    run.cache_bytes_per_token = session->cache().bytes_per_token();
    comparison.chunk_depth = session->context() / 2;
    // With room for the continuation.
    comparison.prompt_tokens =
        std::clamp(session->context() - kGreedyTokens, 1, static_cast<int32_t>(prompt.size()));
    std::vector<float> logits;
    MLA_RETURN_IF_ERROR(
        RunGreedy(*session, std::span(prompt).first(comparison.prompt_tokens), run, logits));
    advance();
    if (first_logits.empty()) first_logits = logits;
    for (size_t i = 0; i < logits.size(); ++i) {
      run.max_logit_difference = std::max(
          run.max_logit_difference, static_cast<double>(std::abs(logits[i] - first_logits[i])));
    }
    MLA_RETURN_IF_ERROR(MeasureForm(*session, options, advance, run));
    if (!comparison.runs.empty() && run.greedy != comparison.runs[0].greedy) {
      comparison.same_tokens = false;
    }
    comparison.runs.push_back(std::move(run));
  }
  FindCrossovers(model, arithmetic, comparison);
  return comparison;
}

Result<TextRun> ScoreTexts(const std::string& name, const LoadedModel& loaded,
                           const std::vector<std::string_view>& texts,
                           const CompareOptions& options, const ReportProgress& progress) {
  const int32_t context = options.session.context;
  if (context < 3) return InvalidArgument("context is ", context, ", want at least 3");
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                       Session::Create(*loaded.model, options.session));
  std::vector<std::vector<int32_t>> encoded;
  int64_t tokens = 0;
  double bytes = 0;
  for (const std::string_view text : texts) {
    MLA_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                         loaded.tokenizer->Encode(text, {.add_special_tokens = false}));
    tokens += std::ssize(ids);
    bytes += static_cast<double>(text.size());
    encoded.push_back(std::move(ids));
  }
  const int64_t total = tokens + std::ssize(options.depths);
  int64_t done = 0;
  NllSum sum;
  const auto start = Clock::now();
  for (const std::vector<int32_t>& ids : encoded) {
    for (const std::vector<int32_t>& window : WindowsOf(ids, BosId(loaded), context)) {
      MLA_RETURN_IF_ERROR(AddNll(*session, window, sum));
    }
    progress(done += std::ssize(ids), total);
  }
  const double seconds = SecondsSince(start);
  if (sum.tokens == 0) return InvalidArgument("the text holds no token to predict");
  TextRun run;
  run.model = name;
  run.context = context;
  run.tokens = sum.tokens;
  run.nll = sum.nll;
  run.perplexity = sum.perplexity();
  run.bits_per_byte = sum.nll / std::log(2.0) / bytes;
  run.tokens_per_second = static_cast<double>(sum.tokens) / seconds;
  run.bytes_per_second = bytes / seconds;
  run.cache_bytes_per_token = session->cache().bytes_per_token();
  run.cache_bytes_per_text_byte =
      static_cast<double>(run.cache_bytes_per_token) * static_cast<double>(tokens) / bytes;
  run.weight_bytes = loaded.model->checkpoint().data_bytes();
  MLA_ASSIGN_OR_RETURN(run.decode,
                       MeasureDecode(*session, options, [&] { progress(++done, total); }));
  return run;
}

Result<std::vector<HeadMap>> AttentionMaps(const Model& model, const std::vector<int32_t>& ids,
                                           const std::vector<LayerHead>& heads) {
  const auto n = static_cast<int64_t>(ids.size());
  if (n == 0) return InvalidArgument("there are no tokens to map");
  for (const auto& [layer, head] : heads) {
    if (layer < 0 || layer >= std::ssize(model.spec().layers)) {
      return InvalidArgument("layer ", layer, " is out of range, want 0 to ",
                             model.spec().layers.size() - 1);
    }
  }
  KvCacheOptions cache_options;
  cache_options.layers = CacheSpecs(model.spec(), /*full_heads=*/true);
  cache_options.dtype = DType::kF32;
  cache_options.page_size = static_cast<int32_t>(std::min<int64_t>(n, kMaxPageSize));
  cache_options.num_pages = (n + cache_options.page_size - 1) / cache_options.page_size;
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<KvCache> cache, KvCache::Create(cache_options));
  CachedSequence sequence(cache.get());
  const SequenceInput input{&sequence, ids};
  ThreadPool threads(UsableCpus());
  Context context;
  context.threads = &threads;
  std::vector<HeadMap> maps;
  Status status;
  ForwardArgs args;
  args.sequences = {&input, 1};
  args.logits_for = LogitsFor::kNone;
  args.form = AttentionForm::kMha;
  args.attention_observer = [&](size_t layer, const GqaArgs& call) {
    const int64_t count = call.q.dim(1);
    const int64_t kv_heads = call.k_cache.dim(2);
    std::vector<float> out;
    for (const LayerHead& wanted : heads) {
      const int32_t head = wanted.head;
      if (wanted.layer != static_cast<int32_t>(layer) || !status.ok()) continue;
      if (head < 0 || head >= count) {
        status = InvalidArgument("head ", head, " of layer ", layer, " is out of range, want 0 to ",
                                 count - 1);
        return;
      }
      if (out.empty()) {
        // Key j's value is unit vector j: the output of a query is its row of weights.
        const int64_t slots = call.k_cache.dim(0) * call.k_cache.dim(1);
        std::vector<float> units(slots * kv_heads * n, 0.0f);
        for (int64_t j = 0; j < n; ++j) {
          for (int64_t h = 0; h < kv_heads; ++h) {
            units[(sequence.SlotOf(static_cast<int32_t>(j)) * kv_heads + h) * n + j] = 1;
          }
        }
        out.resize(n * count * n);
        GqaArgs weights = call;
        weights.v_cache = ConstTensor(units.data(), DType::kF32,
                                      {call.k_cache.dim(0), call.k_cache.dim(1), kv_heads, n});
        weights.out = Tensor(out.data(), DType::kF32, {n, count, n});
        weights.lse = {};
        status = Gqa(weights, context);
        if (!status.ok()) return;
      }
      HeadMap map{wanted, std::vector<float>(n * n)};
      for (int64_t i = 0; i < n; ++i) {
        std::copy_n(out.begin() + (i * count + head) * n, n, map.weights.begin() + i * n);
      }
      maps.push_back(std::move(map));
    }
  };
  MLA_RETURN_IF_ERROR(model.Forward(args, *cache, context));
  MLA_RETURN_IF_ERROR(std::move(status));
  return maps;
}

namespace {

// Spaces on their own as open boxes. The wide bars and low blocks of special tokens' names, which
// few fonts have, as plain ones.
std::string Legible(std::string text) {
  const auto replace = [&](std::string_view from, std::string_view to) {
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
      text.replace(at, from.size(), to);
    }
  };
  if (text.find_first_not_of(' ') == std::string::npos) replace(" ", "\xe2\x90\xa3");
  replace("\xef\xbd\x9c", "|");
  replace("\xe2\x96\x81", "_");
  return text;
}

}  // namespace

Result<std::vector<std::string>> TokenTexts(const Tokenizer& tokenizer,
                                            const std::vector<int32_t>& ids) {
  constexpr std::string_view kNoCharacter = "\xef\xbf\xbd";  // what Decode gives for loose bytes
  constexpr size_t kMostParts = 4;                           // bytes of a character
  const auto is_part = [&](std::string_view text) {
    return text.find(kNoCharacter) != std::string_view::npos;
  };
  std::vector<std::string> texts;
  while (texts.size() < ids.size()) {
    const std::span<const int32_t> rest = std::span(ids).subspan(texts.size());
    std::string text;
    size_t count = 0;
    do {
      MLA_ASSIGN_OR_RETURN(text, tokenizer.Decode(rest.first(++count), /*skip_special=*/false));
    } while (is_part(text) && count < std::min(kMostParts, rest.size()));
    if (count > 1 && !is_part(text)) {
      for (size_t i = 1; i <= count; ++i) texts.push_back(Concat(text, " ", i, "/", count));
      continue;
    }
    // As the vocabulary writes it, if it is no text.
    MLA_ASSIGN_OR_RETURN(text, tokenizer.Decode(rest.first(1), /*skip_special=*/false));
    if (text.empty() || is_part(text)) {
      MLA_ASSIGN_OR_RETURN(text, tokenizer.IdToPiece(rest[0]));
    }
    texts.push_back(Legible(text));
  }
  return texts;
}

}  // namespace mla
