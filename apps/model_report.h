// What a model, and the files of one, are made of, beside what model/accounting.h counts.
#ifndef MLA_APPS_MODEL_REPORT_H_
#define MLA_APPS_MODEL_REPORT_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint.h"
#include "model/model.h"

namespace mla {

// Tensors of the files by element type, with their number and bytes.
struct StoredKind {
  int64_t tensors = 0, numbers = 0, bytes = 0;
};
std::map<std::string, StoredKind> CountStored(const Checkpoint& checkpoint);

// How many tensors of each element type there are of each kind: a kind is a name without its layer
// and expert, "self_attn.q_b_proj" or "mlp.experts.*.up_proj", in the file's words. Empty if
// nothing is quantised.
std::map<std::string, std::map<std::string, int64_t>> QuantisedKinds(const Checkpoint& checkpoint);

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
