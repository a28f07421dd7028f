#include "engine/generate.h"

#include <algorithm>
#include <chrono>

namespace mla {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

std::string_view StopReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfSequence: return "eos";
    case StopReason::kMaxTokens: return "length";
    case StopReason::kContextFull: return "context";
    case StopReason::kCancelled: return "cancelled";
  }
  return "";
}

Result<GenerateStats> Generate(Session& session, std::span<const int32_t> history,
                               std::span<const int32_t> prompt, const GenerateOptions& options,
                               const GenerateCallbacks& callbacks) {
  MLA_RETURN_IF_ERROR(Validate(options.sampling));
  if (prompt.empty()) return InvalidArgument("the prompt has no tokens, want at least one");
  GenerateStats stats;
  const auto prefill_start = Clock::now();
  const Status prefilled = session.Append(prompt, [&](int32_t done) {
    stats.prompt_tokens = done;
    return !callbacks.on_prefill || callbacks.on_prefill(done);
  });
  stats.prefill_seconds = SecondsSince(prefill_start);
  if (!prefilled.ok() && prefilled.error().code == ErrorCode::kCancelled) {
    stats.stop_reason = StopReason::kCancelled;
    return stats;
  }
  MLA_RETURN_IF_ERROR(prefilled);

  std::vector<int32_t> recent(history.begin(), history.end());
  recent.insert(recent.end(), prompt.begin(), prompt.end());
  Sampler sampler(options.sampling, &session.thread_pool());
  while (options.max_tokens < 0 || stats.generated_tokens < options.max_tokens) {
    const auto start = Clock::now();
    MLA_ASSIGN_OR_RETURN(const int32_t id, sampler.Sample(session.logits(), recent));
    stats.decode_seconds += SecondsSince(start);
    if (std::count(options.stop_ids.begin(), options.stop_ids.end(), id) > 0) {
      stats.stop_reason = StopReason::kEndOfSequence;
      return stats;
    }
    recent.push_back(id);
    ++stats.generated_tokens;
    if (!callbacks.on_token(id)) {
      stats.stop_reason = StopReason::kCancelled;
      return stats;
    }
    if (stats.generated_tokens == options.max_tokens) break;
    if (session.length() == session.context()) {
      stats.stop_reason = StopReason::kContextFull;
      return stats;
    }
    const auto step_start = Clock::now();
    MLA_RETURN_IF_ERROR(session.Append({&id, 1}));
    stats.decode_seconds += SecondsSince(step_start);
    ++stats.decode_steps;
  }
  stats.stop_reason = StopReason::kMaxTokens;
  return stats;
}

}  // namespace mla
