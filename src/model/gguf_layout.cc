#include "model/gguf_layout.h"

#include <memory>
#include <utility>

#include "model/gguf_metadata.h"
#include "model/gguf_names.h"
#include "tensor/quant_blocks.h"

namespace mla {
namespace {

// Row `row` of a matrix, or the number `row` of a vector.
void ReadRow(const ConstTensor& w, int64_t row, float* to) {
  if (w.rank() == 1) {
    DequantiseRow(w.dtype(), w.as<char>() + RowBytes(w.dtype(), row), 1, to);
  } else {
    DequantiseMatrixRow(w, row, 0, w.dim(1), to);
  }
}

// The row of the model that comes to lie at `row`, of heads of `head_dim` rows, of which those from
// `begin` on are rotated in halves: a pair's two rows become neighbours.
int64_t SourceRow(int64_t row, int64_t head_dim, int64_t begin) {
  const int64_t head = row / head_dim, at = row % head_dim - begin;
  if (at < 0) return row;
  const int64_t half = (head_dim - begin) / 2;
  return head * head_dim + begin + at / 2 + at % 2 * half;
}

class Planner {
 public:
  explicit Planner(const ModelSpec& spec) : spec_(spec), arch_(GgufArchitecture(spec)) {}

  void Run(const ModelWeights& weights) {
    Add(-1, "token_embd", weights.embedding);
    for (size_t i = 0; i < weights.layers.size(); ++i) {
      layer_ = static_cast<int32_t>(i);
      AddLayer(spec_.layers[i], weights.layers[i]);
    }
    Add(-1, "output_norm", weights.final_norm);
    if (!spec_.tie_embeddings) Add(-1, "output", weights.lm_head);
  }

  std::vector<GgufTensorPlan> plans;

 private:
  void AddLayer(const LayerSpec& spec, const LayerWeights& w) {
    Add(layer_, "attn_norm", w.attention_norm);
    if (const auto* mla = std::get_if<MlaWeights>(&w.attention)) {
      AddMla(std::get<MlaSpec>(spec.attention), *mla);
    } else {
      AddGqa(std::get<GqaSpec>(spec.attention), std::get<GqaWeights>(w.attention));
    }
    Add(layer_, "ffn_norm", w.mlp_norm);
    if (const auto* dense = std::get_if<DenseMlpWeights>(&w.mlp)) {
      AddDense(*dense, "");
    } else {
      AddMoe(std::get<MoeWeights>(w.mlp));
    }
  }

  // The tensor as it is. `head_dim` and `begin`: see SourceRow; 0: not reordered.
  void Add(int32_t layer, std::string_view part, const ConstTensor& w, int64_t head_dim = 0,
           int64_t begin = 0, std::string_view suffix = "weight") {
    if (!w.present()) return;
    GgufTensorPlan& plan = plans.emplace_back();
    plan.name = GgufName(layer, part, suffix);
    plan.stored = ToStoredDType(w.dtype());
    if (w.rank() == 1) {
      // One row; made number by number.
      plan.shape = {w.dim(0)};
      plan.read_unit = [w, head_dim, begin](int64_t, float* to) {
        for (int64_t i = 0; i < w.dim(0); ++i) {
          ReadRow(w, head_dim > 0 ? SourceRow(i, head_dim, begin) : i, to + i);
        }
      };
      return;
    }
    plan.shape = {w.dim(0), w.dim(1)};
    plan.read_unit = [w, head_dim, begin](int64_t row, float* to) {
      ReadRow(w, head_dim > 0 ? SourceRow(row, head_dim, begin) : row, to);
    };
  }
  void Add(std::string_view part, const LinearWeight& linear, int64_t head_dim = 0,
           int64_t begin = 0) {
    Add(layer_, part, linear.w, head_dim, begin);
    Add(layer_, part, linear.bias, head_dim, begin, "bias");
  }

  void AddMla(const MlaSpec& spec, const MlaWeights& w) {
    const MlaShape& s = spec.shape;
    // The architecture rotates neighbours.
    const bool halves = spec.rope->pairing == RopePairing::kHalves;
    const int64_t q_dim = halves ? s.qk_nope_head_dim + s.qk_rope_head_dim : 0;
    const int64_t kv_dim = halves ? s.kv_lora_rank + s.qk_rope_head_dim : 0;
    Add("attn_q", w.q, q_dim, s.qk_nope_head_dim);
    Add("attn_q_a", w.q_a);
    Add(layer_, "attn_q_a_norm", w.q_a_norm);
    Add("attn_q_b", w.q_b, q_dim, s.qk_nope_head_dim);
    Add("attn_kv_a_mqa", w.kv_a, kv_dim, s.kv_lora_rank);
    Add(layer_, "attn_kv_a_norm", w.kv_a_norm);
    AddKeyUp(s, w.w_uk);
    AddValueUp(s, w.w_uv);
    Add("attn_output", w.o);
  }

  // [heads, qk_nope_head_dim, kv_lora_rank], each head turned round.
  void AddKeyUp(const MlaShape& s, const ConstTensor& w) {
    GgufTensorPlan& plan = plans.emplace_back();
    plan.name = GgufName(layer_, "attn_k_b", "weight");
    plan.shape = {s.heads, s.kv_lora_rank, s.qk_nope_head_dim};
    plan.stored = ToStoredDType(w.dtype());
    plan.unit = s.kv_lora_rank;
    plan.read_unit = [w](int64_t head, float* to) {
      const int64_t d_n = w.dim(1), rank = w.dim(2);
      std::vector<float> row(rank);
      for (int64_t i = 0; i < d_n; ++i) {
        const int64_t at = head * w.stride(0) + i * w.stride(1);
        DequantiseRow(w.dtype(), w.as<char>() + RowBytes(w.dtype(), at), rank, row.data());
        for (int64_t j = 0; j < rank; ++j) to[j * d_n + i] = row[j];
      }
    };
  }

  // [heads, v_head_dim, kv_lora_rank]
  void AddValueUp(const MlaShape& s, const ConstTensor& w) {
    GgufTensorPlan& plan = plans.emplace_back();
    plan.name = GgufName(layer_, "attn_v_b", "weight");
    plan.shape = {s.heads, s.v_head_dim, s.kv_lora_rank};
    plan.stored = ToStoredDType(w.dtype());
    plan.read_unit = [w](int64_t row, float* to) {
      const int64_t at = row / w.dim(1) * w.stride(0) + row % w.dim(1) * w.stride(1);
      DequantiseRow(w.dtype(), w.as<char>() + RowBytes(w.dtype(), at), w.dim(2), to);
    };
  }

  void AddGqa(const GqaSpec& spec, const GqaWeights& w) {
    const bool reorder = arch_ == "llama" && spec.rope->pairing == RopePairing::kHalves;
    const int64_t head_dim = reorder ? spec.head_dim : 0;
    Add("attn_q", w.q, head_dim);
    Add("attn_k", w.k, head_dim);
    Add("attn_v", w.v);
    Add("attn_output", w.o);
    Add(layer_, "attn_q_norm", w.q_norm);
    Add(layer_, "attn_k_norm", w.k_norm);
  }

  void AddDense(const DenseMlpWeights& w, std::string_view suffix) {
    Add(Concat("ffn_gate", suffix), w.gate);
    Add(Concat("ffn_up", suffix), w.up);
    Add(Concat("ffn_down", suffix), w.down);
  }

  void AddMoe(const MoeWeights& w) {
    Add(layer_, "ffn_gate_inp", w.router);
    Add(layer_, "exp_probs_b", w.correction_bias, 0, 0, "bias");
    AddExperts("ffn_gate_exps", w.gate);
    AddExperts("ffn_up_exps", w.up);
    AddExperts("ffn_down_exps", w.down);
    if (w.shared) AddDense(*w.shared, "_shexp");
  }

  // [experts, out, in]
  void AddExperts(std::string_view part, const std::vector<ConstTensor>& experts) {
    GgufTensorPlan& plan = plans.emplace_back();
    plan.name = GgufName(layer_, part, "weight");
    plan.shape = {std::ssize(experts), experts[0].dim(0), experts[0].dim(1)};
    plan.stored = ToStoredDType(experts[0].dtype());
    plan.read_unit = [&experts, rows = experts[0].dim(0)](int64_t row, float* to) {
      ReadRow(experts[row / rows], row % rows, to);
    };
  }

  const ModelSpec& spec_;
  const std::string_view arch_;
  int32_t layer_ = 0;
};

}  // namespace

int64_t GgufTensorPlan::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

std::vector<GgufTensorPlan> PlanGgufTensors(const ModelSpec& spec, const ModelWeights& weights) {
  Planner planner(spec);
  planner.Run(weights);
  return std::move(planner.plans);
}

}  // namespace mla
