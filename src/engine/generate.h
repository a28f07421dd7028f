// Generation: a prompt, then tokens one by one until the model ends or a limit is reached.
#ifndef MLA_ENGINE_GENERATE_H_
#define MLA_ENGINE_GENERATE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "engine/sampler.h"
#include "engine/session.h"
#include "mla/result.h"

namespace mla {

struct GenerateOptions {
  int32_t max_tokens = -1;  // -1: until the end or the context is full
  SamplingOptions sampling;
  std::vector<int32_t> stop_ids;  // end-of-sequence tokens; several are normal
};

enum class StopReason { kEndOfSequence, kMaxTokens, kContextFull, kCancelled };
std::string_view StopReasonName(StopReason reason);  // "eos", "length", "context", "cancelled"

struct GenerateStats {
  int32_t prompt_tokens =
      0;  // that were run: fewer than the prompt's if stopped within it (Append)
  int32_t generated_tokens = 0;  // the end-of-sequence token not counted
  double prefill_seconds = 0;
  double decode_seconds = 0;  // of decode_steps steps
  int32_t decode_steps = 0;   // model steps after the prompt
  StopReason stop_reason = StopReason::kMaxTokens;
};

struct GenerateCallbacks {
  std::function<bool(int32_t id)> on_token;      // false: stop
  std::function<bool(int32_t done)> on_prefill;  // may be empty; false: stop
};

// Appends `prompt` (not empty) to the session and generates. `history`: the tokens that the session
// holds already, for repeat_penalty. A prompt longer than what is left of the context is an error.
// Stopped within the prompt, the session holds the tokens it held before and nothing is generated
// (kCancelled).
// Every token handed to on_token has been or will be in the session's cache except the last.
Result<GenerateStats> Generate(Session& session, std::span<const int32_t> history,
                               std::span<const int32_t> prompt, const GenerateOptions& options,
                               const GenerateCallbacks& callbacks);

}  // namespace mla

#endif  // MLA_ENGINE_GENERATE_H_
