#include "dispatch/mla_cost.h"

#include <algorithm>
#include <numeric>

#include "base/numeric.h"
#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/isa.h"

namespace mla {
namespace {

using Prices = std::array<double, kMlaTerms>;  // picoseconds, in the order of MlaTerm

struct FormPrices {
  Prices absorbed, expanded;
};

// Printed by `form_grid --fit`; measured with 2 threads on 2 cores of an AMD EPYC (Zen 4), those of
// AMX on an Intel Xeon (Emerald Rapids).
constexpr FormPrices kPrices[] = {
    // kF32: form_grid --compute f32 --kv f32
    {{16.7, 524, 35.3, 199, 1890, 0}, {21.1, 457, 20.2, 1300, 3170, 0}},
    // kBf16: form_grid --depths 0,512,2048,8192
    {{10.6, 89.5, 29.5, 53.5, 1600, 0}, {14.5, 114, 10.4, 315, 1740, 0}},
    // kInt8: form_grid --kv i8 --depths 0,512,2048,8192
    {{6.80, 67.7, 23.4, 54.5, 1510, 0}, {9.52, 486, 9.83, 283, 0, 0}},
    // kAmxBf16: form_grid --threads 2 --depths 0,512,2048
    {{7.08, 147, 18.3, 294, 1550, 0}, {10.6, 382, 7.34, 284, 748, 0}},
    // kAmxInt8: form_grid --threads 2 --kv i8 --depths 0,512,2048
    {{9.21, 150, 12.9, 182, 781, 0}, {10.8, 0, 6.33, 162, 422, 0}},
};

constexpr double kPicosecond = 1e-12;

// Splits of the keys, as the kernels plan them.
int32_t CountSplits(const cpu::PlanShape& shape, int64_t q_len, int64_t kv_len) {
  const int32_t cu_q[] = {0, static_cast<int32_t>(q_len)};
  const auto kv_len_32 = static_cast<int32_t>(kv_len);
  PagedBatch batch;
  batch.num_seqs = 1;
  batch.cu_q = cu_q;
  batch.kv_lens = &kv_len_32;
  batch.page_size = 1;
  cpu::SequencePlan plan;
  cpu::PlanAttention(shape, batch, {&plan, 1});
  return plan.splits;
}

}  // namespace

MlaArithmetic MlaArithmeticOf(ComputeMode compute, DType cache) {
  if (compute != ComputeMode::kBF16 || !cpu::UsesAvx512Bf16()) return MlaArithmetic::kF32;
  const bool amx = cpu::UsesAmxBf16();
  if (cache == DType::kI8) return amx ? MlaArithmetic::kAmxInt8 : MlaArithmetic::kInt8;
  // The dot products take bf16 alone.
  if (cache != DType::kBF16) return MlaArithmetic::kF32;
  return amx ? MlaArithmetic::kAmxBf16 : MlaArithmetic::kBf16;
}

std::string_view MlaTermName(MlaTerm term) {
  constexpr std::string_view kNames[] = {"products", "key tiles", "up-projection",
                                         "weights",  "merge",     "calls"};
  return kNames[term];
}

MlaWork CountMlaWork(MlaForm form, const MlaShape& shape, int64_t q_len, int64_t kv_len) {
  const double heads = shape.heads;
  const double d_k = shape.qk_nope_head_dim + shape.qk_rope_head_dim;
  const double latent = 2.0 * shape.kv_lora_rank + shape.qk_rope_head_dim;
  const double expanded = d_k + shape.v_head_dim;
  const double weights = heads * shape.kv_lora_rank * (shape.qk_nope_head_dim + shape.v_head_dim);
  const auto q = static_cast<double>(q_len);
  const auto kv = static_cast<double>(kv_len);
  const double pairs = MlaCausalPairs(q_len, kv_len);
  const double visible = q_len > 0 ? pairs / q : 0;  // keys of a query, on average

  MlaWork work;
  auto& counts = work.counts;
  counts[kMlaWeights] = weights;
  counts[kMlaCall] = 1;
  if (form == MlaForm::kAbsorbed) {
    const int64_t tiles = CeilDiv(q_len * shape.heads, cpu::kRowTile);
    work.splits = CountSplits({shape.heads, 1, cpu::kRowTile, cpu::kTargetItems}, q_len, kv_len);
    counts[kMlaProducts] = heads * pairs * latent;
    counts[kMlaTiles] = static_cast<double>(tiles) * visible * latent;
    counts[kMlaProjection] = q * weights;
    if (work.splits > 1) counts[kMlaMerge] = q * heads * work.splits * shape.kv_lora_rank;
    return work;
  }
  const int64_t tiles = CeilDiv(q_len, cpu::kRowTile);
  work.splits = CountSplits({shape.heads, shape.heads, 0, cpu::kExpandedItems}, q_len, kv_len);
  counts[kMlaProducts] = heads * pairs * expanded;
  counts[kMlaTiles] = heads * static_cast<double>(tiles) * visible * expanded;
  counts[kMlaProjection] = kv * weights;
  if (work.splits > 1) counts[kMlaMerge] = q * heads * work.splits * shape.v_head_dim;
  return work;
}

double MlaEstimate::total() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

MlaTerm MlaEstimate::largest() const {
  return static_cast<MlaTerm>(std::max_element(seconds.begin(), seconds.end()) - seconds.begin());
}

MlaEstimate EstimateMla(MlaForm form, const MlaShape& shape, int64_t q_len, int64_t kv_len,
                        MlaArithmetic arithmetic) {
  const FormPrices& prices = kPrices[static_cast<int>(arithmetic)];
  const Prices& price = form == MlaForm::kAbsorbed ? prices.absorbed : prices.expanded;
  const MlaWork work = CountMlaWork(form, shape, q_len, kv_len);
  MlaEstimate estimate;
  estimate.splits = work.splits;
  for (int i = 0; i < kMlaTerms; ++i) estimate.seconds[i] = work.counts[i] * price[i] * kPicosecond;
  return estimate;
}

MlaForm ChooseMlaForm(const MlaShape& shape, int64_t q_len, int64_t kv_len,
                      MlaArithmetic arithmetic) {
  const double absorbed = EstimateMla(MlaForm::kAbsorbed, shape, q_len, kv_len, arithmetic).total();
  const double expanded = EstimateMla(MlaForm::kExpanded, shape, q_len, kv_len, arithmetic).total();
  return absorbed <= expanded ? MlaForm::kAbsorbed : MlaForm::kExpanded;
}

}  // namespace mla
