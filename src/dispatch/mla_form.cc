#include "dispatch/mla_form.h"

namespace mla {

double MlaCausalPairs(int64_t q_len, int64_t kv_len) {
  const auto q = static_cast<double>(q_len);
  const auto kv = static_cast<double>(kv_len);
  // Query i of q sees kv - q + i + 1 keys.
  return q_len <= kv_len ? q * (kv - q) + q * (q + 1) / 2 : kv * (kv + 1) / 2;
}

double MlaFlops(MlaForm form, const MlaShape& shape, int64_t q_len, int64_t kv_len) {
  const double heads = shape.heads;
  const double rank = shape.kv_lora_rank;
  const double d_n = shape.qk_nope_head_dim;
  const double d_r = shape.qk_rope_head_dim;
  const double d_v = shape.v_head_dim;
  const auto q = static_cast<double>(q_len);
  const auto kv = static_cast<double>(kv_len);
  const double pairs = MlaCausalPairs(q_len, kv_len);
  if (form == MlaForm::kAbsorbed) {
    return 2 * heads * (q * rank * (d_n + d_v) + pairs * (2 * rank + d_r));
  }
  return 2 * heads * (kv * rank * (d_n + d_v) + pairs * (d_n + d_r + d_v));
}

}  // namespace mla
