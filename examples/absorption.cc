// The two forms of MLA over the same latent cache: equal outputs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "mla/attention.h"
#include "mla/linear.h"

namespace {

constexpr int kHeads = 4, kRank = 64, kNope = 32, kRope = 16, kValue = 32, kTokens = 40;

std::vector<float> Random(size_t count, float scale) {
  static std::mt19937 random(7);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> numbers(count);
  for (float& number : numbers) number = normal(random);
  return numbers;
}

bool Check(const mla::Status& status) {
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.error().message.c_str());
  return status.ok();
}

}  // namespace

int main() {
  using mla::DType;
  const std::vector<float> q = Random(kHeads * (kNope + kRope), 1);  // one query: a decode step
  const std::vector<float> cache = Random(kTokens * (kRank + kRope), 1);
  const std::vector<float> w_uk = Random(kHeads * kNope * kRank, 0.125f);
  const std::vector<float> w_uv = Random(kHeads * kValue * kRank, 0.125f);
  const int32_t cu_q[] = {0, 1}, kv_len = kTokens, page = 0;
  const mla::PagedBatch batch{1, cu_q, &kv_len, &page, 1, kTokens};
  const mla::ConstTensor latent(cache.data(), DType::kF32, {1, kTokens, kRank + kRope});
  const mla::ConstTensor uk(w_uk.data(), DType::kF32, {kHeads, kNope, kRank});
  const mla::ConstTensor uv(w_uv.data(), DType::kF32, {kHeads, kValue, kRank});
  const mla::ConstTensor query(q.data(), DType::kF32, {1, kHeads, kNope + kRope});
  const float scale = 1 / std::sqrt(static_cast<float>(kNope + kRope));
  const mla::Context context;

  // Expanded: keys and values of every cached token, then attention.
  std::vector<float> expanded(kHeads * kValue);
  mla::MlaExpandedArgs e;
  e.q = query;
  e.cache = latent;
  e.w_uk = uk;
  e.w_uv = uv;
  e.batch = batch;
  e.scale = scale;
  e.out = mla::Tensor(expanded.data(), DType::kF32, {1, kHeads, kValue});
  if (!Check(mla::MlaExpanded(e, context))) return 1;

  // Absorbed: W_UK^T into the query, attention over the latents, then W_UV.
  const auto absorbed = [&](float with_scale) {
    std::vector<float> q_lat(kHeads * (kRank + kRope)), o_lat(kHeads * kRank);
    std::vector<float> out(kHeads * kValue);
    const mla::Tensor all(q_lat.data(), DType::kF32, {1, kHeads, kRank + kRope});
    const mla::ConstTensor uk_t(w_uk.data(), DType::kF32, {kHeads, kRank, kNope},
                                {kNope * kRank, 1, kRank});
    mla::MlaAbsorbedArgs a;
    a.q = all;
    a.cache = latent;
    a.batch = batch;
    a.kv_lora_rank = kRank;
    a.scale = with_scale;
    a.out = mla::Tensor(o_lat.data(), DType::kF32, {1, kHeads, kRank});
    for (int h = 0; h < kHeads; ++h) {
      std::copy_n(&q[h * (kNope + kRope) + kNope], kRope, &q_lat[h * (kRank + kRope) + kRank]);
    }
    const bool ok =
        Check(mla::HeadLinear(
            {.x = query.Slice(2, 0, kNope), .w = uk_t, .y = all.Slice(2, 0, kRank)}, context)) &&
        Check(mla::MlaAbsorbed(a, context)) &&
        Check(mla::HeadLinear(
            {.x = a.out, .w = uv, .y = mla::Tensor(out.data(), DType::kF32, {1, kHeads, kValue})},
            context));
    return ok ? out : std::vector<float>(out.size(), NAN);
  };
  const auto far = [&](const std::vector<float>& out) {
    double most = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      if (std::isnan(out[i])) return 1e9;
      most = std::max(most, static_cast<double>(std::abs(out[i] - expanded[i])));
    }
    return most;
  };
  const double right = far(absorbed(scale));
  const double wrong = far(absorbed(1 / std::sqrt(static_cast<float>(kRank + kRope))));
  std::printf("absorbed and expanded differ by less than 1e-5: %s\n", right < 1e-5 ? "yes" : "no");
  std::printf("with the scale (r + d_r)^-1/2 they differ by more than 0.01: %s\n",
              wrong > 0.01 ? "yes" : "no");

  return right < 1e-5 && wrong > 0.01 ? 0 : 1;
}
