#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>
#include <vector>

namespace mla {
namespace {

constexpr double kMaxFactor = 1e6;
constexpr double kMaxTheta = 1e12;
constexpr int64_t kMaxPositions = int64_t{1} << 30;

std::vector<double> PlainFrequencies(double theta, int64_t dim) {
  std::vector<double> inv_freq(dim / 2);
  for (int64_t i = 0; i < dim / 2; ++i) {
    inv_freq[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
  }
  return inv_freq;
}

Status ApplyLinear(const ConfigReader& config, std::vector<double>& inv_freq) {
  MLA_ASSIGN_OR_RETURN(const double factor, config.GetFloat("factor", 1, kMaxFactor));
  for (double& f : inv_freq) f /= factor;
  return {};
}

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
Status ApplyLlama3(const ConfigReader& config, std::vector<double>& inv_freq) {
  MLA_ASSIGN_OR_RETURN(const double factor, config.GetFloat("factor", 1, kMaxFactor));
  MLA_ASSIGN_OR_RETURN(const double low, config.GetFloat("low_freq_factor", 1e-3, kMaxFactor));
  MLA_ASSIGN_OR_RETURN(const double high, config.GetFloat("high_freq_factor", 1e-3, kMaxFactor));
  MLA_ASSIGN_OR_RETURN(const int64_t original,
                       config.GetInt("original_max_position_embeddings", 1, kMaxPositions));
  if (high <= low) {
    return config.BadValue("high_freq_factor", Concat("more than low_freq_factor (", low, ")"));
  }
  for (double& f : inv_freq) {
    const double turns = static_cast<double>(original) * f / (2 * std::numbers::pi);
    const double keep = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    f = (1 - keep) * f / factor + keep * f;
  }
  return {};
}

double YarnMscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// The context that YaRN stretches: its own key, or the model's if the config leaves it out.
Result<int64_t> YarnOriginalContext(const ConfigReader& config, const ConfigReader& model) {
  if (config.Has("original_max_position_embeddings")) {
    return config.GetInt("original_max_position_embeddings", 1, kMaxPositions);
  }
  return model.GetInt("max_position_embeddings", 1, kMaxPositions);
}

// YaRN, arXiv 2309.00071, section 3.2: frequencies that turn more than beta_fast times within the
// original context are kept, those that turn less than beta_slow times are divided by factor.
Status ApplyYarn(const ConfigReader& config, const ConfigReader& model, double theta, int64_t dim,
                 std::vector<double>& inv_freq, RopeResult& result) {
  MLA_ASSIGN_OR_RETURN(const double factor, config.GetFloat("factor", 1, kMaxFactor));
  MLA_ASSIGN_OR_RETURN(const int64_t original, YarnOriginalContext(config, model));
  MLA_ASSIGN_OR_RETURN(const double fast, config.GetFloatOr("beta_fast", 32, 1e-3, kMaxFactor));
  MLA_ASSIGN_OR_RETURN(const double slow, config.GetFloatOr("beta_slow", 1, 1e-3, kMaxFactor));
  MLA_ASSIGN_OR_RETURN(const bool truncate, config.GetBoolOr("truncate", true));
  if (fast < slow) {
    return config.BadValue("beta_fast", Concat("at least beta_slow (", slow, ")"));
  }
  const auto pair_turning = [&](double turns) {
    return static_cast<double>(dim) *
           std::log(static_cast<double>(original) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(theta));
  };
  double low = pair_turning(fast);
  double high = pair_turning(slow);
  if (truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;  // as the published code does, so that the ramp is a step
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = ramp * inv_freq[i] / factor + (1 - ramp) * inv_freq[i];
  }

  MLA_ASSIGN_OR_RETURN(const auto mscale, config.GetOptionalFloat("mscale", 0, kMaxFactor));
  MLA_ASSIGN_OR_RETURN(const double all_dim, config.GetFloatOr("mscale_all_dim", 0, 0, kMaxFactor));
  MLA_ASSIGN_OR_RETURN(const auto attention_factor,
                       config.GetOptionalFloat("attention_factor", 1e-6, kMaxFactor));
  result.rope.magnitude = static_cast<float>(attention_factor.value_or(
      YarnMscale(factor, mscale.value_or(1)) / YarnMscale(factor, all_dim)));
  const double m = YarnMscale(factor, all_dim);
  result.scale_factor = m * m;
  return {};
}

// One list of LongRoPE's factors, one for each pair.
Result<std::vector<float>> ReadFactors(const ConfigReader& config, std::string_view key,
                                       const std::vector<double>& inv_freq) {
  MLA_ASSIGN_OR_RETURN(const std::vector<double> factors, config.GetFloats(key, 1e-3, kMaxFactor));
  if (factors.size() != inv_freq.size()) {
    return config.BadValue(key, Concat("a list of ", inv_freq.size(), " numbers"));
  }
  std::vector<float> divided;
  for (size_t i = 0; i < factors.size(); ++i) {
    divided.push_back(static_cast<float>(inv_freq[i] / factors[i]));
  }
  return divided;
}

// LongRoPE, arXiv 2402.13753: each frequency has a factor of its own, in two sets: one up to the
// original context, one beyond. `factor`, where a config leaves it out, is how far the context has
// been extended.
Status ApplyLongRope(const ConfigReader& config, const ConfigReader& model,
                     const std::vector<double>& inv_freq, RopeSpec& rope) {
  // Some configs have the original context beside the settings, others in them.
  const bool inside = config.Has("original_max_position_embeddings");
  MLA_ASSIGN_OR_RETURN(
      const int64_t original,
      (inside ? config : model).GetInt("original_max_position_embeddings", 2, kMaxPositions));
  MLA_ASSIGN_OR_RETURN(const int64_t context,
                       model.GetInt("max_position_embeddings", 1, kMaxPositions));
  MLA_ASSIGN_OR_RETURN(rope.inv_freq, ReadFactors(config, "short_factor", inv_freq));
  MLA_ASSIGN_OR_RETURN(rope.long_inv_freq, ReadFactors(config, "long_factor", inv_freq));
  rope.original_context = static_cast<int32_t>(original);
  const double extension = static_cast<double>(context) / static_cast<double>(original);
  MLA_ASSIGN_OR_RETURN(const double factor,
                       config.GetFloatOr("factor", extension, 1e-6, kMaxFactor));
  MLA_ASSIGN_OR_RETURN(const auto attention_factor,
                       config.GetOptionalFloat("attention_factor", 1e-6, kMaxFactor));
  const double derived =
      factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original)));
  rope.magnitude = static_cast<float>(attention_factor.value_or(derived));
  return {};
}

// The object that holds the rope settings, if there is one.
Result<std::optional<ConfigReader>> RopeObject(const ConfigReader& config) {
  if (config.Has("rope_parameters")) return config.GetOptionalObject("rope_parameters");
  return config.GetOptionalObject("rope_scaling");
}

Result<std::string> RopeType(const ConfigReader& settings) {
  // `type` is the older spelling of `rope_type`.
  if (settings.Has("rope_type")) return settings.GetString("rope_type");
  return settings.GetStringOr("type", "default");
}

}  // namespace

Result<RopeResult> ReadRope(const ConfigReader& config, int64_t dim, RopePairing pairing,
                            double default_theta) {
  MLA_ASSIGN_OR_RETURN(const auto settings, RopeObject(config));
  const bool theta_inside = settings && settings->Has("rope_theta");
  MLA_ASSIGN_OR_RETURN(const double theta,
                       (theta_inside ? *settings : config)
                           .GetFloatOr("rope_theta", default_theta, 1.001, kMaxTheta));
  std::vector<double> inv_freq = PlainFrequencies(theta, dim);
  RopeResult result;
  result.rope.pairing = pairing;
  if (settings) {
    MLA_ASSIGN_OR_RETURN(const std::string type, RopeType(*settings));
    if (type == "linear") {
      MLA_RETURN_IF_ERROR(ApplyLinear(*settings, inv_freq));
    } else if (type == "llama3") {
      MLA_RETURN_IF_ERROR(ApplyLlama3(*settings, inv_freq));
    } else if (type == "yarn") {
      MLA_RETURN_IF_ERROR(ApplyYarn(*settings, config, theta, dim, inv_freq, result));
    } else if (type == "longrope") {
      MLA_RETURN_IF_ERROR(ApplyLongRope(*settings, config, inv_freq, result.rope));
      return result;
    } else if (type != "default") {
      return Unsupported("config.json: rope type is \"", type,
                         "\", want default, linear, llama3, yarn or longrope");
    }
  }
  result.rope.inv_freq.assign(inv_freq.begin(), inv_freq.end());
  return result;
}

}  // namespace mla
