#include "apps/generation.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/output.h"
#include "apps/session_flags.h"

namespace mla {
namespace {

constexpr size_t kLongPrompt = 256;  // tokens that may take a while

// What happens to each token.
class Streamer {
 public:
  Streamer(const Tokenizer& tokenizer, const GenerationRequest& request)
      : tokenizer_(tokenizer), request_(request), decoder_(tokenizer) {
    if (request.prompt.size() > kLongPrompt) {
      bar_.emplace("reading the prompt", std::ssize(request.prompt));
    }
  }

  // The decoder must know what came before: at the start of a text some tokens decode otherwise.
  Status Prime() {
    for (const auto* ids : {&request_.history, &request_.prompt}) {
      for (const int32_t id : *ids) MLA_RETURN_IF_ERROR(Decode(id));
    }
    return {};
  }

  bool OnPrefill(int32_t done) {
    if (bar_) bar_->Update(done);
    return !interrupt_.interrupted();
  }

  bool OnToken(int32_t id) {
    generation_.ids.push_back(id);
    const Result<std::string> text = Decode(id);
    status_ = text.ok() ? Emit(*text) : Status(text.error());
    return status_.ok() && !interrupt_.interrupted();
  }

  Result<Generation> Finish(const GenerateStats& stats) {
    if (status_.ok()) status_ = Emit(decoder_.Flush());
    if (!status_.ok()) return status_.error();
    generation_.stats = stats;
    return std::move(generation_);
  }

 private:
  // A vocabulary padded to a round size has ids that are no tokens: they have no text.
  Result<std::string> Decode(int32_t id) {
    return tokenizer_.HasId(id) ? decoder_.Push(id) : std::string();
  }

  Status Emit(const std::string& text) {
    bar_.reset();  // before text that may be on the same terminal
    generation_.text += text;
    if (!request_.print) return {};
    const bool first = !echoed_;
    echoed_ = true;
    return Print(first ? request_.echo + text : text);
  }

  const Tokenizer& tokenizer_;
  const GenerationRequest& request_;
  InterruptGuard interrupt_;
  StreamDecoder decoder_;
  std::optional<ProgressBar> bar_;
  Generation generation_;
  Status status_;
  bool echoed_ = false;
};

// Tokens per second; nothing if none ran.
std::optional<double> Rate(int32_t tokens, double seconds) {
  if (tokens == 0 || seconds <= 0) return std::nullopt;
  return tokens / seconds;
}
std::optional<double> PrefillRate(const GenerateStats& stats) {
  return Rate(stats.prompt_tokens, stats.prefill_seconds);
}
std::optional<double> DecodeRate(const GenerateStats& stats) {
  return Rate(stats.decode_steps, stats.decode_seconds);
}

std::string RateText(std::optional<double> rate) {
  return rate ? Concat(", ", WithCommas(std::llround(*rate)), " tokens/s") : "";
}

nlohmann::ordered_json RateJson(std::optional<double> rate) {
  return rate ? nlohmann::ordered_json(*rate) : nlohmann::ordered_json();
}

std::string Tokens(int64_t count) {
  return WithCommas(count) + (count == 1 ? " token" : " tokens");
}

}  // namespace

Result<Generation> RunGeneration(const Tokenizer& tokenizer, Session& session,
                                 const GenerationRequest& request, const GenerateOptions& options) {
  Streamer streamer(tokenizer, request);
  MLA_RETURN_IF_ERROR(streamer.Prime());
  GenerateCallbacks callbacks;
  callbacks.on_token = [&](int32_t id) { return streamer.OnToken(id); };
  callbacks.on_prefill = [&](int32_t done) { return streamer.OnPrefill(done); };
  MLA_ASSIGN_OR_RETURN(const GenerateStats stats,
                       Generate(session, request.history, request.prompt, options, callbacks));
  return streamer.Finish(stats);
}

std::string DescribeStats(const GenerateStats& stats) {
  return Concat("prefill ", Tokens(stats.prompt_tokens), RateText(PrefillRate(stats)), "; decode ",
                Tokens(stats.generated_tokens), RateText(DecodeRate(stats)),
                "; stopped: ", StopReasonName(stats.stop_reason));
}

std::string DescribeCache(const Session& session) {
  const CacheUse use = MeasureCache(session);
  return Concat("KV cache: ", Tokens(use.tokens), ", ", HumanBytes(static_cast<double>(use.bytes)),
                "; MHA with the same heads: ", HumanBytes(static_cast<double>(use.mha_bytes)), ", ",
                Fixed(use.ratio(), 1), " times that");
}

nlohmann::ordered_json StatsJson(const GenerateStats& stats, const Session& session) {
  const CacheUse use = MeasureCache(session);
  nlohmann::ordered_json json;
  json["prompt_tokens"] = stats.prompt_tokens;
  json["generated_tokens"] = stats.generated_tokens;
  json["stop_reason"] = StopReasonName(stats.stop_reason);
  json["prefill_seconds"] = stats.prefill_seconds;
  json["prefill_tokens_per_second"] = RateJson(PrefillRate(stats));
  json["decode_steps"] = stats.decode_steps;
  json["decode_seconds"] = stats.decode_seconds;
  json["decode_tokens_per_second"] = RateJson(DecodeRate(stats));
  json["cache_tokens"] = use.tokens;
  json["cache_bytes"] = use.bytes;
  json["mha_cache_bytes"] = use.mha_bytes;
  json["mha_cache_ratio"] = use.ratio();
  json.update(SessionJson(session));
  return json;
}

}  // namespace mla
