// The two forms of MLA and their operations. The choice between them: mla_cost.h.
#ifndef MLA_DISPATCH_MLA_FORM_H_
#define MLA_DISPATCH_MLA_FORM_H_

#include <cstdint>

namespace mla {

enum class MlaForm { kAbsorbed, kExpanded };

struct MlaShape {
  int32_t heads = 0;
  int32_t kv_lora_rank = 0;
  int32_t qk_nope_head_dim = 0;
  int32_t qk_rope_head_dim = 0;
  int32_t v_head_dim = 0;
};

// Floating-point operations of attention with q_len causal queries at the end of kv_len cached
// tokens, from q_nope and the latent cache to the per-head outputs:
//   absorbed: q_nope W_UK and o W_UV for the queries, scores and sums over the latent;
//   expanded: W_UK and W_UV for every cached token, scores and sums over the heads' dims.
double MlaFlops(MlaForm form, const MlaShape& shape, int64_t q_len, int64_t kv_len);

// Pairs of a query and a key that it sees.
double MlaCausalPairs(int64_t q_len, int64_t kv_len);

}  // namespace mla

#endif  // MLA_DISPATCH_MLA_FORM_H_
