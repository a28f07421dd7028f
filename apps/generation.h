// Generated tokens as text on standard output, and the statistics after them.
#ifndef MLA_APPS_GENERATION_H_
#define MLA_APPS_GENERATION_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "apps/interrupt.h"
#include "apps/progress.h"
#include "engine/generate.h"
#include "engine/session.h"
#include "io/tokenizer/tokenizer.h"
#include "mla/result.h"

namespace mla {

struct GenerationRequest {
  std::vector<int32_t> history;  // what the session holds already
  std::vector<int32_t> prompt;   // what it is given now; not empty
  std::string echo;              // printed before the first generated text
  bool print = true;             // stream the text as it comes
};

struct Generation {
  GenerateStats stats;
  std::vector<int32_t> ids;  // generated
  std::string text;          // of these
};

// Generates, streaming whole characters as they become final. Ctrl-C ends the generation and is no
// error. A prompt too long for what is left of the context is one, and changes nothing.
Result<Generation> RunGeneration(const Tokenizer& tokenizer, Session& session,
                                 const GenerationRequest& request, const GenerateOptions& options);

// "prefill 15 tokens, 9,123 tokens/s; decode 120 tokens, 1,523 tokens/s; stopped: eos". No rate of
// what did not run: the first token is the prompt's.
std::string DescribeStats(const GenerateStats& stats);
// "KV cache: 135 tokens, 64.8 kB; MHA with the same heads: 1.2 MB, 12.8 times as much"
std::string DescribeCache(const Session& session);
// The same numbers; rates of what did not run are null.
nlohmann::ordered_json StatsJson(const GenerateStats& stats, const Session& session);

}  // namespace mla

#endif  // MLA_APPS_GENERATION_H_
