// What it takes to run a model, as data: `mla plan` shows it.
#ifndef MLA_APPS_PLAN_H_
#define MLA_APPS_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/machine.h"
#include "mla/result.h"
#include "model/accounting.h"
#include "model/spec.h"

namespace mla {

// A model's dimensions, and what its config says beside them.
struct PlanModel {
  std::string name, source;
  ModelSpec spec;
  std::vector<WeightGroup> weights;
  WeightFormat stored = WeightFormat::kBf16;  // how the release stores the weights
  std::string other_format;                   // quantised otherwise: as the config calls it
  int64_t extra_layers = 0;                   // num_nextn_predict_layers
  int64_t extra_parameters = 0;               // of those layers together
};

// `name`: a model directory, a config.json, or a known model's name. The weights are not read, and
// need not be there.
Result<PlanModel> ReadPlanModel(const std::string& name);

struct PlanOptions {
  int64_t context = 0;  // 0: the model's own
  int64_t batch = 1;
  std::optional<WeightFormat> weights;  // none: as released
  CacheFormat cache = CacheFormat::kF16;
  int64_t memory_bytes = 0;  // 0: the machines' own
  std::vector<Machine> machines;
};

struct CacheRow {
  CacheLayout layout;
  CacheFormat format;
  int64_t bytes_per_token = 0, total_bytes = 0;  // total: context times batch
};

// One step in one form of attention: all `tokens` of it together.
struct StepRow {
  std::string step;  // "prefill", "decode"
  AttentionForm form;
  double tokens = 0;
  StepCost cost;
};

// The least time the machine can take for a step, as tokens per second; and what bounds it.
struct FloorRow {
  Machine machine;
  StepRow step;
  double tokens_per_second = 0;
  bool memory_bound = false;
};

// What fits beside the weights; 0 and weights_fit false if they alone are too much.
struct FitRow {
  std::string memory_of;
  int64_t memory_bytes = 0;
  CacheLayout layout;
  CacheFormat format;
  bool weights_fit = false;
  int64_t max_context = 0;  // of each of `batch` sequences
  int64_t max_batch = 0;    // of sequences of `context` tokens
};

struct Plan {
  int64_t context = 0, batch = 0;
  WeightFormat weight_format = WeightFormat::kBf16;
  CacheFormat cache_format = CacheFormat::kF16;
  std::vector<ParameterKind> parameters;
  ParameterKind sum;
  ParameterKind sum_without_embedding;  // and without the head
  std::vector<std::pair<WeightFormat, int64_t>> weight_bytes;
  std::vector<CacheRow> caches;
  std::vector<StepRow> steps;
  std::vector<FloorRow> floors;
  std::vector<FitRow> fits;

  const CacheRow& Cache(CacheLayout layout, CacheFormat format) const;
};

// kInvalidArgument for sizes that overflow.
Result<Plan> MakePlan(const PlanModel& model, const PlanOptions& options);

std::string_view FormName(AttentionForm form);  // "auto", "absorbed", "expanded", "mha"

}  // namespace mla

#endif  // MLA_APPS_PLAN_H_
