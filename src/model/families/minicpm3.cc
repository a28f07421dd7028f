// MiniCPM3: dense MLA with the scalings of MiniCPM (arXiv 2404.06395): of the embeddings, of what
// each layer adds to the residual stream, and of the last hidden state.
#include <cmath>

#include "model/families/parts.h"
#include "model/families/registry.h"

namespace mla {
namespace {

constexpr double kMaxScale = 1e6;

}  // namespace

Result<ModelSpec> ReadMinicpm3(const ConfigReader& config) {
  MLA_ASSIGN_OR_RETURN(
      ModelSpec spec,
      ReadBase(config, {.max_positions = 32768, .norm_eps = 1e-5, .tie_embeddings = true}));
  MLA_ASSIGN_OR_RETURN(const int32_t heads, ReadSize(config, "num_attention_heads"));
  MLA_ASSIGN_OR_RETURN(const MlaSpec mla,
                       ReadMla(config, RopePairing::kHalves,
                               {.q_lora_rank = 768, .v_head_dim = spec.hidden_size / heads}));
  MLA_ASSIGN_OR_RETURN(spec.layers, ReadDenseLayers(config, mla));
  MLA_ASSIGN_OR_RETURN(const double embedding, config.GetFloatOr("scale_emb", 12, 1e-6, kMaxScale));
  spec.embedding_scale = static_cast<float>(embedding);
  const double root = std::sqrt(static_cast<double>(spec.layers.size()));
  // Null stands for the factor that changes nothing.
  MLA_ASSIGN_OR_RETURN(
      const double depth,
      config.GetFloatOr("scale_depth", config.IsNull("scale_depth") ? root : 1.4, 1e-6, kMaxScale));
  spec.residual_scale = static_cast<float>(depth / root);
  const double no_scale = spec.hidden_size;
  MLA_ASSIGN_OR_RETURN(
      const double base,
      config.GetFloatOr("dim_model_base", config.IsNull("dim_model_base") ? no_scale : 256, 1,
                        kMaxScale));
  spec.logit_scale = static_cast<float>(base / spec.hidden_size);
  return spec;
}

}  // namespace mla
