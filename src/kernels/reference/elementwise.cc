#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"
#include "mla/int8_latent.h"

namespace mla::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Indices of the k largest values, best first; ties go to the lowest index.
std::vector<int32_t> TopK(const std::vector<double>& values, int32_t k) {
  std::vector<int32_t> order(values.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  order.resize(k);
  return order;
}

std::vector<double> Scores(const RouteArgs& args, int64_t row) {
  const int64_t experts = args.logits.dim(1);
  std::vector<double> scores(experts);
  double max = -kInfinity;
  for (int64_t e = 0; e < experts; ++e) {
    scores[e] = At(args.logits, row, e);
    max = std::max(max, scores[e]);
  }
  double sum = 0;
  for (double& s : scores) {
    s = args.scoring == RouterScoring::kSigmoid ? 1 / (1 + std::exp(-s)) : std::exp(s - max);
    sum += s;
  }
  if (args.scoring == RouterScoring::kSoftmax) {
    for (double& s : scores) s /= sum;
  }
  return scores;
}

// Sets the choice scores of experts outside the best groups to -inf.
void MaskGroups(const RouteArgs& args, std::vector<double>& choice) {
  if (args.num_groups == 1) return;
  const size_t size = choice.size() / args.num_groups;
  std::vector<double> group_scores;
  for (int32_t g = 0; g < args.num_groups; ++g) {
    std::vector<double> group(choice.begin() + g * size, choice.begin() + (g + 1) * size);
    std::sort(group.rbegin(), group.rend());
    const bool pair = args.group_score == GroupScore::kTop2Sum && size > 1;
    group_scores.push_back(pair ? group[0] + group[1] : group[0]);
  }
  std::vector<bool> kept(args.num_groups);
  for (int32_t g : TopK(group_scores, args.topk_groups)) kept[g] = true;
  for (size_t e = 0; e < choice.size(); ++e) {
    if (!kept[e / size]) choice[e] = -kInfinity;
  }
}

}  // namespace

Status Embedding(const EmbeddingArgs& args, const Context&) {
  for (size_t i = 0; i < args.ids.size(); ++i) {
    const std::vector<double> row = WeightRow(args.table, args.ids[i]);
    for (int64_t d = 0; d < args.table.dim(1); ++d) {
      SetAt(args.y, row[d], static_cast<int64_t>(i), d);
    }
  }
  return {};
}

Status RmsNorm(const RmsNormArgs& args, const Context&) {
  const int64_t dim = args.x.dim(1);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    double squares = 0;
    for (int64_t d = 0; d < dim; ++d) squares += At(args.x, row, d) * At(args.x, row, d);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(dim) + args.eps);
    for (int64_t d = 0; d < dim; ++d) {
      SetAt(args.y, At(args.x, row, d) * factor * At(args.w, d), row, d);
    }
  }
  return {};
}

Status LayerNorm(const LayerNormArgs& args, const Context&) {
  const int64_t dim = args.x.dim(1);
  const auto count = static_cast<double>(dim);
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    double mean = 0;
    for (int64_t d = 0; d < dim; ++d) mean += At(args.x, row, d) / count;
    double variance = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const double centred = At(args.x, row, d) - mean;
      variance += centred * centred / count;
    }
    const double factor = 1 / std::sqrt(variance + args.eps);
    for (int64_t d = 0; d < dim; ++d) {
      const double normal = (At(args.x, row, d) - mean) * factor;
      SetAt(args.y, normal * At(args.w, d) + At(args.bias, d), row, d);
    }
  }
  return {};
}

Status Scale(const ScaleArgs& args, const Context&) {
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    for (int64_t d = 0; d < args.x.dim(1); ++d) {
      const double before = args.accumulate ? At(args.y, row, d) : 0.0;
      SetAt(args.y, before + args.scale * At(args.x, row, d), row, d);
    }
  }
  return {};
}

Status RopeTable(const RopeTableArgs& args, const Context&) {
  for (size_t row = 0; row < args.positions.size(); ++row) {
    for (size_t pair = 0; pair < args.inv_freq.size(); ++pair) {
      const float angle = static_cast<float>(args.positions[row]) * args.inv_freq[pair];
      const auto i = static_cast<int64_t>(row);
      const auto p = static_cast<int64_t>(pair);
      SetAt(args.turns, std::cos(static_cast<double>(angle)) * args.magnitude, i, 0, p);
      SetAt(args.turns, std::sin(static_cast<double>(angle)) * args.magnitude, i, 1, p);
    }
  }
  return {};
}

Status Rope(const RopeArgs& args, const Context&) {
  const int64_t pairs = args.x.dim(2) / 2;
  const bool halves = args.pairing == RopePairing::kHalves;
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    for (int64_t head = 0; head < args.x.dim(1); ++head) {
      for (int64_t p = 0; p < pairs; ++p) {
        const int64_t a = halves ? p : 2 * p;
        const int64_t b = halves ? p + pairs : 2 * p + 1;
        const double cos = At(args.turns, row, 0, p);
        const double sin = At(args.turns, row, 1, p);
        const double xa = At(args.x, row, head, a);
        const double xb = At(args.x, row, head, b);
        SetAt(args.y, xa * cos - xb * sin, row, head, a);
        SetAt(args.y, xb * cos + xa * sin, row, head, b);
      }
    }
  }
  return {};
}

Status SiluMul(const SiluMulArgs& args, const Context&) {
  for (int64_t row = 0; row < args.gate.dim(0); ++row) {
    for (int64_t d = 0; d < args.gate.dim(1); ++d) {
      const double gate = At(args.gate, row, d);
      SetAt(args.y, gate / (1 + std::exp(-gate)) * At(args.up, row, d), row, d);
    }
  }
  return {};
}

Status Route(const RouteArgs& args, const Context&) {
  for (int64_t row = 0; row < args.logits.dim(0); ++row) {
    const std::vector<double> scores = Scores(args, row);
    std::vector<double> choice = scores;
    if (args.bias.present()) {
      for (size_t e = 0; e < choice.size(); ++e) {
        choice[e] += At(args.bias, static_cast<int64_t>(e));
      }
    }
    MaskGroups(args, choice);
    const std::vector<int32_t> chosen = TopK(choice, args.top_k);
    double sum = 0;
    for (int32_t e : chosen) sum += scores[e];
    // The published code adds 1e-20 so that all-zero scores do not divide by zero.
    const double factor = args.normalize ? args.scaling / (sum + 1e-20) : args.scaling;
    for (int32_t k = 0; k < args.top_k; ++k) {
      args.experts[row * args.top_k + k] = chosen[k];
      args.weights[row * args.top_k + k] = static_cast<float>(scores[chosen[k]] * factor);
    }
  }
  return {};
}

Status GatherRows(const GatherRowsArgs& args, const Context&) {
  for (size_t i = 0; i < args.rows.size(); ++i) {
    for (int64_t d = 0; d < args.x.dim(1); ++d) {
      SetAt(args.y, At(args.x, args.rows[i], d), static_cast<int64_t>(i), d);
    }
  }
  return {};
}

Status CombineExperts(const CombineExpertsArgs& args, const Context&) {
  const int64_t tokens = args.y.dim(0);
  const int64_t top_k = tokens == 0 ? 0 : static_cast<int64_t>(args.rows.size()) / tokens;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t d = 0; d < args.y.dim(1); ++d) {
      double sum = At(args.y, t, d);
      for (int64_t k = 0; k < top_k; ++k) {
        sum += double{args.weights[t * top_k + k]} * At(args.x, args.rows[t * top_k + k], d);
      }
      SetAt(args.y, sum, t, d);
    }
  }
  return {};
}

namespace {

// One int8 latent, as mla/int8_latent.h says.
void WriteInt8Latent(const CacheWriteArgs& args, int64_t row) {
  const Int8LatentLayout layout{args.kv_lora_rank,
                                static_cast<int32_t>(args.x.dim(1) - args.kv_lora_rank)};
  char* to = args.cache.as<char>() + args.slots[row] * args.cache.stride(0);
  std::fill_n(to, layout.bytes(), char{0});
  auto* codes = static_cast<int8_t*>(static_cast<void*>(to));
  const auto x = [&](int64_t d) { return static_cast<float>(At(args.x, row, d)); };
  for (int32_t g = 0; g < layout.groups(); ++g) {
    const int32_t begin = g * layout.kGroup;
    const int32_t end = std::min(begin + layout.kGroup, layout.kv_lora_rank);
    float most = 0;
    bool finite = true;
    for (int32_t d = begin; d < end; ++d) {
      most = std::max(most, std::abs(x(d)));
      finite = finite && std::isfinite(x(d));
    }
    float scale = std::numeric_limits<float>::quiet_NaN();
    if (finite) scale = most < layout.kLeastMagnitude ? 0 : most / 127;
    Store(to + layout.scales_offset(), DType::kF32, g, scale);
    for (int32_t d = begin; d < end && scale > 0; ++d) {
      codes[d] = static_cast<int8_t>(std::nearbyint(x(d) * (127 / most)));
    }
  }
  for (int32_t d = 0; d < layout.qk_rope_head_dim; ++d) {
    Store(to + layout.rope_offset(), DType::kBF16, d, x(layout.kv_lora_rank + d));
  }
}

}  // namespace

Status CacheWrite(const CacheWriteArgs& args, const Context&) {
  if (args.cache.dtype() == DType::kI8) {
    for (int64_t row = 0; row < args.x.dim(0); ++row) WriteInt8Latent(args, row);
    return {};
  }
  for (int64_t row = 0; row < args.x.dim(0); ++row) {
    for (int64_t d = 0; d < args.x.dim(1); ++d) {
      SetAt(args.cache, At(args.x, row, d), args.slots[row], args.column + d);
    }
  }
  return {};
}

}  // namespace mla::reference
