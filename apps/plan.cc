#include "apps/plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/config_source.h"
#include "base/check.h"
#include "base/numeric.h"
#include "io/config.h"
#include "io/json.h"
#include "model/families/registry.h"
#include "model/known_models.h"

namespace mla {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxTokens = int64_t{1} << 40;  // of context and of batch

Result<ModelSpec> ReadSpec(Json& config) {
  // How weights are stored does not change their number; the reader of specs may refuse it.
  if (config.is_object()) config.erase("quantization_config");
  Result<ModelSpec> spec = ReadModelSpec(config);
  if (spec.ok() || spec.error().code != ErrorCode::kUnsupported) return spec;
  if (config.contains("text_config") && config["text_config"].is_object()) {
    Json text = config["text_config"];
    Result<ModelSpec> nested = ReadSpec(text);
    if (nested.ok() || nested.error().code != ErrorCode::kUnsupported) return nested;
    return Unsupported(nested.message(), " (in text_config)");
  }
  return spec;
}

const Json* FindQuantization(const Json& config) {
  const auto text = config.find("text_config");
  for (const Json* object : {&config, text != config.end() ? &*text : &config}) {
    const auto found = object->is_object() ? object->find("quantization_config") : object->end();
    if (object->is_object() && found != object->end() && found->is_object()) return &*found;
  }
  return nullptr;
}

// How the release stores its weights.
void ReadStoredFormat(const Json& config, PlanModel& model) {
  const Json* quantization = FindQuantization(config);
  if (quantization == nullptr) return;
  const Json method = quantization->value("quant_method", Json());
  if (method == "fp8") {
    model.stored = WeightFormat::kFp8;
  } else {
    model.other_format = method.is_string() ? method.get<std::string>() : "quantization_config";
  }
}

Status AddExtraLayers(const Json& config, PlanModel& model) {
  MLA_ASSIGN_OR_RETURN(const ConfigReader reader, ConfigReader::Create(config, "config.json"));
  MLA_ASSIGN_OR_RETURN(model.extra_layers, reader.GetIntOr("num_nextn_predict_layers", 0, 0, 1024));
  if (model.extra_layers == 0) return {};
  MLA_ASSIGN_OR_RETURN(const int64_t each, ExtraPredictionParameters(model.spec));
  MLA_ASSIGN_OR_RETURN(model.extra_parameters,
                       CheckedBytes(model.extra_layers, each, "the extra prediction layers"));
  return {};
}

std::vector<AttentionForm> FormsOf(const ModelSpec& spec) {
  const bool mla = std::any_of(spec.layers.begin(), spec.layers.end(), [](const LayerSpec& layer) {
    return std::holds_alternative<MlaSpec>(layer.attention);
  });
  if (!mla) return {AttentionForm::kAuto};  // its own, over its own cache
  return {AttentionForm::kAbsorbed, AttentionForm::kExpanded, AttentionForm::kMha};
}

Status AddCaches(const PlanModel& model, int64_t tokens, Plan& plan) {
  for (const CacheLayout layout : kCacheLayouts) {
    for (const CacheFormat format : kCacheFormats) {
      CacheRow row{layout, format, CacheBytesPerToken(model.spec, layout, format), 0};
      MLA_ASSIGN_OR_RETURN(row.total_bytes, CheckedBytes(tokens, row.bytes_per_token, "the cache"));
      plan.caches.push_back(row);
    }
  }
  return {};
}

void AddSteps(const PlanModel& model, Plan& plan) {
  const StepShape prefill{1, plan.context, 0};
  const StepShape decode{plan.batch, 1, plan.context - 1};
  for (const auto& [name, step] : {std::pair("prefill", prefill), std::pair("decode", decode)}) {
    for (const AttentionForm form : FormsOf(model.spec)) {
      const double tokens = static_cast<double>(step.batch) * static_cast<double>(step.new_tokens);
      plan.steps.push_back({name, form, tokens,
                            CostOfStep(model.spec, model.weights, step, form, plan.weight_format,
                                       plan.cache_format)});
    }
  }
}

void AddFits(const PlanOptions& options, int64_t weights, Plan& plan) {
  std::vector<std::pair<std::string, int64_t>> memories;
  if (options.memory_bytes > 0) {
    memories.push_back({"--memory", options.memory_bytes});
  } else {
    for (const Machine& machine : options.machines) {
      if (machine.memory_bytes <= 0) continue;
      memories.push_back({machine.name, static_cast<int64_t>(machine.memory_bytes)});
    }
  }
  for (const auto& [name, bytes] : memories) {
    for (const CacheRow& cache : plan.caches) {
      FitRow fit{name, bytes, cache.layout, cache.format, bytes >= weights, 0, 0};
      if (fit.weights_fit && cache.bytes_per_token > 0) {
        const int64_t tokens = (bytes - weights) / cache.bytes_per_token;
        fit.max_context = tokens / plan.batch;
        fit.max_batch = tokens / plan.context;
      }
      plan.fits.push_back(fit);
    }
  }
}

}  // namespace

const CacheRow& Plan::Cache(CacheLayout layout, CacheFormat format) const {
  const auto row = std::find_if(caches.begin(), caches.end(), [&](const CacheRow& r) {
    return r.layout == layout && r.format == format;
  });
  MLA_CHECK(row != caches.end());
  return *row;
}

Result<PlanModel> ReadPlanModel(const std::string& name) {
  MLA_ASSIGN_OR_RETURN(ConfigSource source, ReadConfigSource(name));
  PlanModel model;
  model.name = name;
  model.source = source.text;
  if (source.config.is_object()) ReadStoredFormat(source.config, model);
  Json config = source.config;
  Result<ModelSpec> spec = ReadSpec(config);
  if (!spec.ok()) return Error{spec.error().code, Concat(name, ": ", spec.message())};
  model.spec = *std::move(spec);
  MLA_ASSIGN_OR_RETURN(model.weights, ListWeights(model.spec, WeightShapes(model.spec)));
  const bool nested = !config.contains("num_hidden_layers") && config.contains("text_config");
  MLA_RETURN_IF_ERROR(AddExtraLayers(nested ? config["text_config"] : config, model));
  return model;
}

Result<Plan> MakePlan(const PlanModel& model, const PlanOptions& options) {
  Plan plan;
  plan.context = options.context > 0 ? options.context : model.spec.max_positions;
  plan.batch = options.batch;
  plan.weight_format = options.weights.value_or(model.stored);
  plan.cache_format = options.cache;
  for (const auto& [flag, value] :
       {std::pair("--context", plan.context), std::pair("--batch", plan.batch)}) {
    if (value < 1 || value > kMaxTokens) {
      return InvalidArgument(flag, " is ", value, ", want 1 to ", kMaxTokens);
    }
  }
  MLA_ASSIGN_OR_RETURN(const int64_t tokens,
                       CheckedBytes(plan.context, plan.batch, "--context and --batch"));
  plan.parameters = CountParameters(model.weights);
  plan.sum = SumParameters(plan.parameters);
  std::vector<ParameterKind> inner = plan.parameters;
  std::erase_if(inner,
                [](const ParameterKind& k) { return k.name == "embedding" || k.name == "head"; });
  plan.sum_without_embedding = SumParameters(inner);
  for (const WeightFormat format : kWeightFormats) {
    MLA_ASSIGN_OR_RETURN(const int64_t bytes, WeightBytes(model.weights, format));
    plan.weight_bytes.push_back({format, bytes});
  }
  MLA_RETURN_IF_ERROR(AddCaches(model, tokens, plan));
  AddSteps(model, plan);
  for (const Machine& machine : options.machines) {
    for (const StepRow& step : plan.steps) {
      const double compute = step.cost.flops() / machine.flops;
      const double memory = step.cost.bytes() / machine.bytes_per_second;
      plan.floors.push_back(
          {machine, step, step.tokens / std::max(compute, memory), memory > compute});
    }
  }
  MLA_ASSIGN_OR_RETURN(const int64_t weights, WeightBytes(model.weights, plan.weight_format));
  AddFits(options, weights, plan);
  return plan;
}

std::string_view FormName(AttentionForm form) {
  constexpr std::string_view kNames[] = {"auto", "absorbed", "expanded", "mha"};
  return kNames[static_cast<size_t>(form)];
}

}  // namespace mla
