// The oracle against numbers worked out by hand: what all other kernels are compared with.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "mla/attention.h"
#include "mla/elementwise.h"

namespace mla {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Context Reference() {
  Context context;
  context.kernel = "reference";
  return context;
}

// One head, latent 1 + 1: scores and outputs can be written down.
TEST(Reference, AbsorbedAttentionByHand) {
  // Tokens (c_kv, k_pe): (1, 0), (3, 1); the page's other rows are poison.
  std::vector<float> cache = {kNaN, kNaN, kNaN, kNaN, 1, 0, 3, 1};
  std::vector<float> q = {0, 2, 0, 2};  // two queries: score 2 * k_pe * scale
  std::vector<float> out(2), lse(2);
  const int32_t cu_q[] = {0, 2}, kv_lens[] = {2}, table[] = {1, 2147480000};
  MlaAbsorbedArgs args;
  args.q = ConstTensor(q.data(), DType::kF32, {2, 1, 2});
  args.cache = ConstTensor(cache.data(), DType::kF32, {2, 2, 2});
  args.batch = {1, cu_q, kv_lens, table, 2, 2};
  args.kv_lora_rank = 1;
  args.scale = 0.5;
  args.out = Tensor(out.data(), DType::kF32, {2, 1, 1});
  args.lse = Tensor(lse.data(), DType::kF32, {2, 1});
  ASSERT_TRUE(MlaAbsorbed(args, Reference()).ok());
  // The first query sees token 0 alone; the second both, with scores 0 and 1.
  EXPECT_FLOAT_EQ(out[0], 1);
  EXPECT_FLOAT_EQ(lse[0], 0);
  const double e = std::exp(1.0);
  EXPECT_FLOAT_EQ(out[1], static_cast<float>((1 + 3 * e) / (1 + e)));
  EXPECT_FLOAT_EQ(lse[1], static_cast<float>(std::log(1 + e)));
}

TEST(Reference, RowsWithNothingToAttendToAreZeroWithLseMinusInfinity) {
  std::vector<float> cache(4, kNaN);
  std::vector<float> q(6, 1), out(3, kNaN), lse(3, kNaN);
  // One token in the cache, three queries: the first two are before it.
  cache = {2, 1, kNaN, kNaN};
  const int32_t cu_q[] = {0, 3}, kv_lens[] = {1}, table[] = {0};
  MlaAbsorbedArgs args;
  args.q = ConstTensor(q.data(), DType::kF32, {3, 1, 2});
  args.cache = ConstTensor(cache.data(), DType::kF32, {1, 2, 2});
  args.batch = {1, cu_q, kv_lens, table, 1, 2};
  args.kv_lora_rank = 1;
  args.scale = 1;
  args.out = Tensor(out.data(), DType::kF32, {3, 1, 1});
  args.lse = Tensor(lse.data(), DType::kF32, {3, 1});
  ASSERT_TRUE(MlaAbsorbed(args, Reference()).ok());
  EXPECT_EQ(out, (std::vector<float>{0, 0, 2}));
  EXPECT_EQ(lse, (std::vector<float>{-kInfinity, -kInfinity, 3}));
}

// The expanded form is the absorbed one with the projections on the other side.
TEST(Reference, ExpandedAttentionByHand) {
  std::vector<float> cache = {1, 0, 3, 1};  // (c_kv, k_pe) of two tokens
  std::vector<float> w = {2, 10};           // W_UK = 2, W_UV = 10
  std::vector<float> q = {0.5, 1};          // scores: 0.5 * 2 * c_kv + k_pe = 1, 4
  std::vector<float> out(1), lse(1);
  const int32_t cu_q[] = {0, 1}, kv_lens[] = {2}, table[] = {0};
  MlaExpandedArgs args;
  args.q = ConstTensor(q.data(), DType::kF32, {1, 1, 2});
  args.cache = ConstTensor(cache.data(), DType::kF32, {1, 2, 2});
  args.w_uk = ConstTensor(w.data(), DType::kF32, {1, 1, 1});
  args.w_uv = ConstTensor(w.data() + 1, DType::kF32, {1, 1, 1});
  args.batch = {1, cu_q, kv_lens, table, 1, 2};
  args.scale = 1;
  args.out = Tensor(out.data(), DType::kF32, {1, 1, 1});
  args.lse = Tensor(lse.data(), DType::kF32, {1, 1});
  ASSERT_TRUE(MlaExpanded(args, Reference()).ok());
  const double a = std::exp(1.0);
  const double b = std::exp(4.0);
  EXPECT_FLOAT_EQ(out[0], static_cast<float>((10 * a + 30 * b) / (a + b)));
  EXPECT_FLOAT_EQ(lse[0], static_cast<float>(std::log(a + b)));
}

TEST(Reference, GqaHeadsShareTheirKeyHead) {
  // 4 heads over 2 key heads, one token: a head's output is its key head's value.
  std::vector<float> q(4, 1), k = {1, 2}, v = {5, 7}, out(4);
  const int32_t cu_q[] = {0, 1}, kv_lens[] = {1}, table[] = {0};
  GqaArgs args;
  args.q = ConstTensor(q.data(), DType::kF32, {1, 4, 1});
  args.k_cache = ConstTensor(k.data(), DType::kF32, {1, 1, 2, 1});
  args.v_cache = ConstTensor(v.data(), DType::kF32, {1, 1, 2, 1});
  args.batch = {1, cu_q, kv_lens, table, 1, 1};
  args.scale = 1;
  args.out = Tensor(out.data(), DType::kF32, {1, 4, 1});
  ASSERT_TRUE(Gqa(args, Reference()).ok());
  EXPECT_EQ(out, (std::vector<float>{5, 5, 7, 7}));
}

TEST(Reference, MergingIgnoresEmptyPartsWhateverTheyHold) {
  std::vector<float> parts = {1, kNaN, 3, kNaN};  // [4 parts, 1, 1, 1]
  std::vector<float> part_lse = {0, -kInfinity, std::log(3.0F), -kInfinity};
  std::vector<float> out(1), lse(1);
  MergeArgs args;
  args.part_out = ConstTensor(parts.data(), DType::kF32, {4, 1, 1, 1});
  args.part_lse = ConstTensor(part_lse.data(), DType::kF32, {4, 1, 1});
  args.out = Tensor(out.data(), DType::kF32, {1, 1, 1});
  args.lse = Tensor(lse.data(), DType::kF32, {1, 1});
  ASSERT_TRUE(MergePartials(args, {}).ok());
  EXPECT_FLOAT_EQ(out[0], (1 + 3 * 3) / 4.0F);
  EXPECT_FLOAT_EQ(lse[0], std::log(4.0F));
  part_lse.assign(4, -kInfinity);
  ASSERT_TRUE(MergePartials(args, {}).ok());
  EXPECT_EQ(out[0], 0);
  EXPECT_EQ(lse[0], -kInfinity);
}

TEST(Reference, RopeRotatesNeighboursOrHalves) {
  const int32_t position = 1;
  const float inv_freq[] = {std::acos(0.0F), 0};  // a quarter turn, and none
  std::vector<float> turns(4), x = {1, 2, 3, 4}, y(4);
  ASSERT_TRUE(RopeTable({.positions = {&position, 1},
                         .inv_freq = inv_freq,
                         .magnitude = 2,
                         .turns = Tensor(turns.data(), DType::kF32, {1, 2, 2})},
                        {})
                  .ok());
  for (const auto& [pairing, want] :
       {std::pair{RopePairing::kInterleaved, std::vector<float>{-4, 2, 6, 8}},
        std::pair{RopePairing::kHalves, std::vector<float>{-6, 4, 2, 8}}}) {
    for (const char* kernel : {"reference", "cpu"}) {
      Context context;
      context.kernel = kernel;
      ASSERT_TRUE(Rope({.x = ConstTensor(x.data(), DType::kF32, {1, 1, 4}),
                        .turns = ConstTensor(turns.data(), DType::kF32, {1, 2, 2}),
                        .pairing = pairing,
                        .y = Tensor(y.data(), DType::kF32, {1, 1, 4})},
                       context)
                      .ok());
      for (int i = 0; i < 4; ++i) EXPECT_NEAR(y[i], want[i], 1e-6) << kernel << " " << i;
    }
  }
}

struct Routed {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};
Routed RouteOne(std::vector<float> logits, std::vector<float> bias, RouteArgs args) {
  Routed routed;
  routed.experts.resize(args.top_k);
  routed.weights.resize(args.top_k);
  const auto n = static_cast<int64_t>(logits.size());
  args.logits = ConstTensor(logits.data(), DType::kF32, {1, n});
  if (!bias.empty()) args.bias = ConstTensor(bias.data(), DType::kF32, {n});
  args.experts = routed.experts;
  args.weights = routed.weights;
  const Status status = Route(args, {});
  EXPECT_TRUE(status.ok()) << status.message();
  return routed;
}

TEST(Reference, V2GroupsCountByTheirBestScore) {
  // Groups {0,1}, {2,3}, {4,5}: best scores in groups 0 and 2; group 1's pair would win by sum.
  const Routed routed = RouteOne({5, 0, 3, 3, 4, 0}, {},
                                 {.num_groups = 3, .topk_groups = 2, .top_k = 3, .scaling = 2});
  EXPECT_EQ(routed.experts, (std::vector<int32_t>{0, 4, 1}));  // a tie at 0: the lowest index
  const double sum = std::exp(5.0) + 2 * std::exp(3.0) + std::exp(4.0) + 2;
  EXPECT_NEAR(routed.weights[0], 2 * std::exp(5.0) / sum, 1e-6);  // not normalised
}

TEST(Reference, V3ChoosesByBiasedScoresAndWeighsByUnbiasedOnes) {
  // All scores 0.5; biases decide. Group sums of the two best: -2, -4, -1: groups 2 and 0 are kept.
  // Experts of group 1 are masked with -inf: with 0 they would beat the negative choice scores.
  const Routed routed = RouteOne({0, 0, 0, 0, 0, 0}, {-1.0, -2.0, -2.5, -2.5, -1.5, -0.5},
                                 {.scoring = RouterScoring::kSigmoid,
                                  .group_score = GroupScore::kTop2Sum,
                                  .num_groups = 3,
                                  .topk_groups = 2,
                                  .top_k = 4,
                                  .normalize = true,
                                  .scaling = 2.5});
  EXPECT_EQ(routed.experts, (std::vector<int32_t>{5, 0, 4, 1}));
  for (float weight : routed.weights) EXPECT_NEAR(weight, 2.5 / 4, 1e-6);
}

TEST(Reference, RmsNormAndSiluByHand) {
  std::vector<float> x = {3, 4}, w = {1, 2}, y(2);
  ASSERT_TRUE(RmsNorm({.x = ConstTensor(x.data(), DType::kF32, {1, 2}),
                       .w = ConstTensor(w.data(), DType::kF32, {2}),
                       .eps = 0.5F,
                       .y = Tensor(y.data(), DType::kF32, {1, 2})},
                      Reference())
                  .ok());
  const double norm = std::sqrt(12.5 + 0.5);
  EXPECT_FLOAT_EQ(y[0], static_cast<float>(3 / norm));
  EXPECT_FLOAT_EQ(y[1], static_cast<float>(8 / norm));
  ASSERT_TRUE(SiluMul({.gate = ConstTensor(x.data(), DType::kF32, {1, 2}),
                       .up = ConstTensor(w.data(), DType::kF32, {1, 2}),
                       .y = Tensor(y.data(), DType::kF32, {1, 2})},
                      Reference())
                  .ok());
  EXPECT_FLOAT_EQ(y[1], static_cast<float>(4 / (1 + std::exp(-4.0)) * 2));
}

TEST(Reference, LayerNormAndScaleByHand) {
  std::vector<float> x = {1, 3, 5, 7}, y(4);  // mean 4, variance 5
  const std::vector<float> w = {1, 1, 2, 2}, bias = {0, 10, 0, 0};
  ASSERT_TRUE(LayerNorm({.x = ConstTensor(x.data(), DType::kF32, {1, 4}),
                         .w = ConstTensor(w.data(), DType::kF32, {4}),
                         .bias = ConstTensor(bias.data(), DType::kF32, {4}),
                         .eps = 4,
                         .y = Tensor(y.data(), DType::kF32, {1, 4})},
                        Reference())
                  .ok());
  EXPECT_FLOAT_EQ(y[0], -1);  // -3 / sqrt(5 + 4)
  EXPECT_FLOAT_EQ(y[1], 10 - 1.0F / 3);
  EXPECT_FLOAT_EQ(y[3], 2);
  const ConstTensor from(x.data(), DType::kF32, {2, 2});
  y = {1, 1, 1, 1};
  const Tensor to(y.data(), DType::kF32, {2, 2});
  ASSERT_TRUE(Scale({.x = from, .scale = 2, .accumulate = true, .y = to}, Reference()).ok());
  EXPECT_EQ(y, (std::vector<float>{3, 7, 11, 15}));
  ASSERT_TRUE(Scale({.x = from, .scale = -1, .y = to}, Reference()).ok());
  EXPECT_EQ(y, (std::vector<float>{-1, -3, -5, -7}));
}

}  // namespace
}  // namespace mla
