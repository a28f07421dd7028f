// How well a model predicts given tokens.
#ifndef MLA_ENGINE_PERPLEXITY_H_
#define MLA_ENGINE_PERPLEXITY_H_

#include <cstdint>
#include <span>

#include "engine/session.h"
#include "mla/result.h"

namespace mla {

struct NllSum {
  double nll = 0;      // natural log, summed over the predicted tokens
  int64_t tokens = 0;  // predicted: one less than the tokens of each piece

  double per_token() const { return tokens > 0 ? nll / static_cast<double>(tokens) : 0; }
  double perplexity() const;  // exp(per_token)
};

// Scores `ids` as one sequence from an empty cache, each token but the first predicted from those
// before it; adds to `sum`. More ids than the session's context are an error, and so are logits
// that say nothing (MostLikely). The session is empty afterwards.
Status AddNll(Session& session, std::span<const int32_t> ids, NllSum& sum);

}  // namespace mla

#endif  // MLA_ENGINE_PERPLEXITY_H_
