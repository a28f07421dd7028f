// What a loaded model is made of, counted from its weights and its checkpoint.
#ifndef MLA_APPS_MODEL_REPORT_H_
#define MLA_APPS_MODEL_REPORT_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "model/model.h"

namespace mla {

// Numbers of one kind of weight, over all layers.
struct ParameterKind {
  std::string name;  // "attention q_b", "routed experts"
  int64_t total = 0;
  int64_t active = 0;  // that take part in one token: of routed experts, those chosen
};

// In the order of the computation. A head tied to the embedding is not counted twice.
std::vector<ParameterKind> CountParameters(const Model& model);
ParameterKind SumParameters(const std::vector<ParameterKind>& kinds);

// Tensors of the checkpoint by element type, with their number and bytes.
struct StoredKind {
  int64_t tensors = 0, numbers = 0, bytes = 0;
};
std::map<std::string, StoredKind> CountStored(const Model& model);

// Tensors of the checkpoint that the model does not read.
std::vector<const StoredTensor*> UnusedTensors(const Model& model);

// Runs of layers that are alike: "0", "1-5".
struct LayerRange {
  std::string layers;
  std::string attention;  // "MLA, 8 heads, kv_lora_rank 64, ..."
  std::string mlp;        // "MoE, 8 experts of 192, 2 per token, ..."
};
std::vector<LayerRange> DescribeLayers(const ModelSpec& spec);

}  // namespace mla

#endif  // MLA_APPS_MODEL_REPORT_H_
