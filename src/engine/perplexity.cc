#include "engine/perplexity.h"

#include <cmath>

#include "engine/sampler.h"

namespace mla {
namespace {

// -log softmax(logits)[target].
Result<double> Nll(std::span<const float> logits, int32_t target) {
  MLA_ASSIGN_OR_RETURN(const int32_t best, MostLikely(logits));
  const double max = logits[best];
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - max);
  return max + std::log(sum) - logits[target];
}

}  // namespace

double NllSum::perplexity() const { return std::exp(per_token()); }

Status AddNll(Session& session, std::span<const int32_t> ids, NllSum& sum) {
  session.Truncate(0);
  if (ids.size() < 2) return {};
  const auto vocab = static_cast<size_t>(session.model().spec().vocab_size);
  size_t next = 1;  // the token that the next row of logits predicts
  // The last token predicts nothing: it need not run.
  const Status status =
      session.Score(ids.first(ids.size() - 1), [&](const ConstTensor& logits) -> Status {
        for (int64_t row = 0; row < logits.dim(0); ++row, ++next) {
          const std::span row_logits(logits.as<float>() + row * logits.stride(0), vocab);
          MLA_ASSIGN_OR_RETURN(const double nll, Nll(row_logits, ids[next]));
          sum.nll += nll;
          ++sum.tokens;
        }
        return {};
      });
  session.Truncate(0);
  return status;
}

}  // namespace mla
