// Which form of attention each part of a measurement ran in, and why.
#ifndef MLA_APPS_BENCH_EXPLAIN_H_
#define MLA_APPS_BENCH_EXPLAIN_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/session.h"
#include "mla/result.h"

namespace mla {

// Neighbouring layers that are alike, over neighbouring steps that ran in one form.
struct FormDecision {
  size_t first_layer = 0, last_layer = 0;
  int32_t steps = 0;
  int32_t queries = 0;                  // of a step; the last one may have fewer
  int32_t from_length = 0, length = 0;  // of the cache after the first and the last step
  std::string form;                     // "absorbed", "expanded", "sparse", "mha", "gqa"
  std::string reason;                   // "estimate", "asked for", ...
  std::string kernel;                   // of the attention operator
  int32_t splits = 1;                   // of the keys, in the last step
  // Estimates of all steps and layers, in milliseconds of the session's threads if they were those
  // of the machine that prices were measured on (dispatch/mla_cost.h); 0 where nothing is chosen.
  double absorbed_ms = 0, expanded_ms = 0;
  std::string limit;  // the largest term of the form that ran, "products", and its share
};

// For `tokens` tokens after `depth` cached ones, in steps of at most `step` tokens.
Result<std::vector<FormDecision>> ExplainForms(const Session& session, AttentionForm form,
                                               int32_t depth, int32_t tokens, int32_t step);

std::string DecisionLine(const FormDecision& decision);
nlohmann::ordered_json DecisionJson(const FormDecision& decision);

}  // namespace mla

#endif  // MLA_APPS_BENCH_EXPLAIN_H_
