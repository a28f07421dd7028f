// What whole steps of DeepSeek-V3 take: the operations, and the bytes that memory must deliver.
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "io/json.h"
#include "model/accounting.h"
#include "model/families/registry.h"
#include "model/known_models.h"

namespace {

int Fail(std::string_view message) {
  std::fprintf(stderr, "%.*s\n", static_cast<int>(message.size()), message.data());
  return 1;
}

}  // namespace

int main() {
  const auto known = mla::FindKnownModel("deepseek-v3");
  if (!known.ok()) return Fail(known.message());
  auto config = mla::ParseJson((*known)->config, "deepseek-v3");
  if (!config.ok()) return Fail(config.message());
  config->erase("quantization_config");  // how weights are stored is asked for below
  const auto spec = mla::ReadModelSpec(*config);
  if (!spec.ok()) return Fail(spec.message());
  const auto weights = mla::ListWeights(*spec, mla::WeightShapes(*spec));
  if (!weights.ok()) return Fail(weights.message());

  const std::pair<const char*, mla::AttentionForm> forms[] = {
      {"absorbed", mla::AttentionForm::kAbsorbed},
      {"expanded", mla::AttentionForm::kExpanded},
      {"as MHA", mla::AttentionForm::kMha}};
  const std::pair<const char*, mla::StepShape> steps[] = {
      {"prefill of 4096 tokens", {1, 4096, 0}},
      {"decode, 64 sequences of 4096 tokens", {64, 1, 4095}}};
  for (const auto& [step_name, step] : steps) {
    const double tokens = static_cast<double>(step.batch) * static_cast<double>(step.new_tokens);
    for (const auto& [form_name, form] : forms) {
      const mla::StepCost cost = mla::CostOfStep(*spec, *weights, step, form,
                                                 mla::WeightFormat::kFp8, mla::CacheFormat::kF16);
      std::printf("%-35s %-8s %6.1f GFLOP per token, %5.1f GB of weights, %6.1f GB of cache\n",
                  step_name, form_name, cost.flops() / tokens / 1e9, cost.weight_bytes / 1e9,
                  cost.cache_bytes / 1e9);
    }
  }
}
