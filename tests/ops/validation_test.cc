// Arguments that must be refused with the value, leaving the outputs untouched.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "mla/attention.h"
#include "mla/elementwise.h"
#include "mla/int8_latent.h"
#include "mla/linear.h"

namespace mla {
namespace {

// A legal call: 2 sequences, 3 query tokens, 2 heads, latent 4 + 2, pages of 2.
struct AbsorbedCall {
  std::vector<float> q = std::vector<float>(3 * 2 * 6, 0.5F);
  std::vector<float> cache = std::vector<float>(4 * 2 * 6, 0.25F);
  std::vector<float> out = std::vector<float>(3 * 2 * 4, 42.0F);
  std::vector<float> lse = std::vector<float>(3 * 2, 42.0F);
  std::vector<int32_t> cu_q = {0, 1, 3};
  std::vector<int32_t> kv_lens = {3, 2};
  std::vector<int32_t> page_table = {1, 3, 0, 2147480000};
  MlaAbsorbedArgs args;

  AbsorbedCall() {
    args.q = ConstTensor(q.data(), DType::kF32, {3, 2, 6});
    args.cache = ConstTensor(cache.data(), DType::kF32, {4, 2, 6});
    args.batch = {.num_seqs = 2,
                  .cu_q = cu_q.data(),
                  .kv_lens = kv_lens.data(),
                  .page_table = page_table.data(),
                  .page_table_stride = 2,
                  .page_size = 2};
    args.kv_lora_rank = 4;
    args.scale = 0.5F;
    args.out = Tensor(out.data(), DType::kF32, {3, 2, 4});
    args.lse = Tensor(lse.data(), DType::kF32, {3, 2});
  }
};

TEST(Validation, TheLegalCallRuns) {
  AbsorbedCall call;
  const Status status = MlaAbsorbed(call.args, {});
  ASSERT_TRUE(status.ok()) << status.message();
  for (float value : call.out) EXPECT_NEAR(value, 0.25F, 1e-6);
}

TEST(Validation, AbsorbedRefusesWithTheValue) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  struct Case {
    std::function<void(AbsorbedCall&)> spoil;
    const char* words;
  };
  const Case cases[] = {
      {[](auto& c) { c.args.kv_lora_rank = 7; }, "kv_lora_rank is 7"},
      {[](auto& c) { c.args.kv_lora_rank = 0; }, "kv_lora_rank is 0"},
      {[](auto& c) { c.args.scale = 0; }, "scale is 0"},
      {[nan](auto& c) { c.args.scale = nan; }, "scale is nan"},
      {[](auto& c) { c.args.batch.page_size = 0; }, "page_size is 0"},
      {[](auto& c) { c.args.batch.page_size = 257; }, "page_size is 257"},
      {[](auto& c) { c.args.batch.page_size = 3; }, "page_size is 3"},
      {[](auto& c) { c.cu_q[1] = 4; }, "4"},
      {[](auto& c) { c.cu_q[0] = -1; }, "-1"},
      {[](auto& c) { c.cu_q[2] = 9; }, "of 3"},
      {[](auto& c) { c.kv_lens[1] = -1; }, "kv_lens[1] is -1"},
      {[](auto& c) { c.kv_lens[0] = 5; }, "needs 3 pages"},
      {[](auto& c) { c.page_table[1] = 4; }, "page_table[0][1] is 4"},
      {[](auto& c) { c.page_table[1] = -1; }, "page_table[0][1] is -1"},
      {[](auto& c) { c.args.batch.cu_q = nullptr; }, "cu_q"},
      {[](auto& c) { c.args.batch.num_seqs = -2; }, "num_seqs is -2"},
      {[](auto& c) {
         c.args.q = ConstTensor(c.q.data(), DType::kI32, {3, 2, 6});
       },
       "q is i32"},
      {[](auto& c) {
         c.args.q = ConstTensor(c.q.data(), DType::kF32, {3, 12});
       },
       "rank 2"},
      {[](auto& c) {
         c.args.q = ConstTensor(nullptr, DType::kF32, {3, 2, 6});
       },
       "q is null"},
      {[](auto& c) {
         c.args.q = ConstTensor(c.q.data(), DType::kF32, {3, 2, 3}, {12, 6, 2});
       },
       "innermost stride 2"},
      {[](auto& c) {
         c.args.q = ConstTensor(c.q.data(), DType::kF32, {3, 2, 6}, {-12, 6, 1});
       },
       "stride -12"},
      {[](auto& c) {
         c.args.q = ConstTensor(reinterpret_cast<char*>(c.q.data()) + 1, DType::kF32, {2, 2, 6});
       },
       "aligned"},
      {[](auto& c) {
         c.args.out = Tensor(c.out.data(), DType::kF32, {3, 2, 5});
       },
       "out has shape"},
      {[](auto& c) {
         c.args.lse = Tensor(c.lse.data(), DType::kF16, {3, 2});
       },
       "lse is f16"},
      {[](auto& c) {
         c.args.lse = Tensor(c.lse.data(), DType::kF32, {2, 3});
       },
       "lse has shape"},
      {[](auto& c) {
         c.args.cache = ConstTensor(c.cache.data(), DType::kF32, {4, 2, 5});
       },
       "cache has shape [4, 2, 5]"},
  };
  for (const Case& bad : cases) {
    AbsorbedCall call;
    bad.spoil(call);
    const Status status = MlaAbsorbed(call.args, {});
    ASSERT_FALSE(status.ok()) << bad.words;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(status.message().find(bad.words), std::string::npos) << status.message();
    EXPECT_EQ(call.out, std::vector<float>(call.out.size(), 42.0F)) << bad.words;
    EXPECT_FALSE(ExplainMlaAbsorbed(call.args, {}).ok());
  }
}

TEST(Validation, ForcedKernelsRunOrSayWhyNot) {
  AbsorbedCall call;
  Context context;
  context.kernel = "nonsense";
  Status status = MlaAbsorbed(call.args, context);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("cpu_simd, reference"), std::string::npos) << status.message();
  context.kernel = "cpu_avx512_bf16";  // an f32 cache is not for it, whatever the machine
  status = MlaAbsorbed(call.args, context);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("refuses"), std::string::npos) << status.message();
  context.kernel = "reference";
  EXPECT_TRUE(MlaAbsorbed(call.args, context).ok());
}

TEST(Validation, TheListEndsWithAReferenceThatNeverRefuses) {
  AbsorbedCall call;
  const Result<KernelVerdicts> verdicts = ExplainMlaAbsorbed(call.args, {});
  ASSERT_TRUE(verdicts.ok());
  EXPECT_EQ(verdicts->back().kernel, "reference");
  EXPECT_EQ(verdicts->back().refusal, "");
}

// Half-precision queries and outputs are legal: where the faster kernels refuse them, the reference
// runs.
TEST(Validation, LegalDtypesAlwaysRun) {
  AbsorbedCall call;
  std::vector<uint16_t> q(call.q.size(), 0x3f00), out(call.out.size());
  call.args.q = ConstTensor(q.data(), DType::kBF16, {3, 2, 6});
  call.args.out = Tensor(out.data(), DType::kBF16, {3, 2, 4});
  const Status status = MlaAbsorbed(call.args, {});
  ASSERT_TRUE(status.ok()) << status.message();
  for (uint16_t bits : out) EXPECT_EQ(bits, 0x3e80);  // 0.25
}

TEST(Validation, ExpandedChecksItsProjections) {
  std::vector<float> q(2 * 3 * 5), cache(4 * 2 * 6), w(3 * 7 * 4), out(2 * 3 * 4);
  const int32_t cu_q[] = {0, 2}, kv_lens[] = {4}, table[] = {0, 1};
  MlaExpandedArgs args;
  args.q = ConstTensor(q.data(), DType::kF32, {2, 3, 5});
  args.cache = ConstTensor(cache.data(), DType::kF32, {4, 2, 6});
  const ConstTensor kv_b(w.data(), DType::kF32, {3, 7, 4});
  args.w_uk = kv_b.Slice(1, 0, 3);
  args.w_uv = kv_b.Slice(1, 3, 7);
  args.batch = {1, cu_q, kv_lens, table, 2, 2};
  args.scale = 1;
  args.out = Tensor(out.data(), DType::kF32, {2, 3, 4});
  ASSERT_TRUE(MlaExpanded(args, {}).ok()) << MlaExpanded(args, {}).message();

  MlaExpandedArgs wrong = args;
  wrong.w_uk = kv_b.Slice(1, 0, 4);  // then d_r would be 1, and a cache row 5
  EXPECT_NE(MlaExpanded(wrong, {}).message().find("cache has shape [4, 2, 6], want [any, any, 5]"),
            std::string::npos);
  wrong = args;
  wrong.w_uv = kv_b.Slice(0, 0, 2);
  EXPECT_NE(MlaExpanded(wrong, {}).message().find("w_uv has shape [2, 7, 4]"), std::string::npos);
  wrong = args;
  wrong.w_uk = ConstTensor(w.data(), DType::kF32, {3, 3, 4}, {28, 8, 2});
  EXPECT_NE(MlaExpanded(wrong, {}).message().find("inner strides 8 and 2"), std::string::npos);
}

TEST(Validation, GqaChecksItsHeads) {
  std::vector<float> q(1 * 6 * 4), k(2 * 2 * 4 * 4), out(1 * 6 * 4);
  const int32_t cu_q[] = {0, 1}, kv_lens[] = {3}, table[] = {0, 1};
  GqaArgs args;
  args.q = ConstTensor(q.data(), DType::kF32, {1, 6, 4});
  args.k_cache = ConstTensor(k.data(), DType::kF32, {2, 2, 4, 4});
  args.v_cache = args.k_cache;
  args.batch = {1, cu_q, kv_lens, table, 2, 2};
  args.scale = 1;
  args.out = Tensor(out.data(), DType::kF32, {1, 6, 4});
  EXPECT_NE(Gqa(args, {}).message().find("6 heads are not a multiple of 4"), std::string::npos);
}

TEST(Validation, LinearChecksItsShapes) {
  std::vector<float> x(2 * 3), w(4 * 3), y(2 * 4, 42.0F);
  LinearTarget target{
      ConstTensor(w.data(), DType::kF32, {4, 3}), {}, Tensor(y.data(), DType::kF32, {2, 4})};
  LinearArgs args{.x = ConstTensor(x.data(), DType::kF32, {2, 3}), .targets = {&target, 1}};
  ASSERT_TRUE(Linear(args, {}).ok());
  target.w = ConstTensor(w.data(), DType::kF32, {3, 4});
  EXPECT_NE(Linear(args, {}).message().find("w has shape [3, 4]"), std::string::npos);
  const int32_t offsets[] = {0, 2, 1, 2};
  const ConstTensor experts[] = {ConstTensor(w.data(), DType::kF32, {4, 3}),
                                 ConstTensor(w.data(), DType::kF32, {4, 3}),
                                 ConstTensor(w.data(), DType::kF32, {4, 3})};
  const GroupedTarget grouped{experts, Tensor(y.data(), DType::kF32, {2, 4})};
  EXPECT_NE(GroupedLinear({.x = args.x, .offsets = offsets, .targets = {&grouped, 1}}, {})
                .message()
                .find("offsets[2] is 1"),
            std::string::npos);
}

TEST(Validation, RowsOutOfRangeAreRefused) {
  std::vector<float> table(5 * 2), y(1 * 2);
  const Tensor out(y.data(), DType::kF32, {1, 2});
  for (const int32_t id : {-1, 5, 2147480000}) {
    const Status status = Embedding(
        {.table = ConstTensor(table.data(), DType::kF32, {5, 2}), .ids = {&id, 1}, .y = out}, {});
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.message().find(std::to_string(id)), std::string::npos) << status.message();
    EXPECT_FALSE(
        GatherRows(
            {.x = ConstTensor(table.data(), DType::kF32, {5, 2}), .rows = {&id, 1}, .y = out}, {})
            .ok());
    const int64_t slot = id;
    EXPECT_FALSE(
        CacheWrite(
            {.x = out, .slots = {&slot, 1}, .cache = Tensor(table.data(), DType::kF32, {5, 2})}, {})
            .ok());
  }
}

// 4 + 2 numbers as an int8 latent: 4 codes, a scale, 2 bf16.
TEST(Validation, Int8LatentsAreCheckedAgainstTheirLayout) {
  constexpr int64_t kBytes = Int8LatentLayout{4, 2}.bytes();
  static_assert(kBytes == 12);
  AbsorbedCall call;
  alignas(4) int8_t cache[4 * 2 * 16] = {};
  call.args.cache = ConstTensor(cache, DType::kI8, {4, 2, kBytes});
  EXPECT_TRUE(MlaAbsorbed(call.args, {}).ok());
  const std::pair<ConstTensor, const char*> bad[] = {
      {ConstTensor(cache, DType::kI8, {4, 2, 6}), "rows of 6 bytes, an int8 latent of 4 + 2 num"},
      {ConstTensor(cache + 1, DType::kI8, {4, 2, kBytes}), "not aligned to 4 bytes"},
      {ConstTensor(cache, DType::kI8, {4, 2, kBytes}, {28, 14, 1}), "stride 14 on axis 1"},
      {ConstTensor(cache, DType::kI32, {4, 2, 6}), "is i32, want f32, f16, bf16, or i8"},
  };
  for (const auto& [view, words] : bad) {
    call.args.cache = view;
    const Status status = MlaAbsorbed(call.args, {});
    ASSERT_FALSE(status.ok()) << words;
    EXPECT_NE(status.message().find(words), std::string::npos) << status.message();
  }
}

TEST(Validation, Int8LatentsAreWrittenWhole) {
  const std::vector<float> x(6, 1);
  alignas(4) int8_t cache[3 * 12] = {};
  const int64_t slot = 2;
  CacheWriteArgs args{.x = ConstTensor(x.data(), DType::kF32, {1, 6}),
                      .slots = {&slot, 1},
                      .cache = Tensor(cache, DType::kI8, {3, 12}),
                      .kv_lora_rank = 4};
  ASSERT_TRUE(CacheWrite(args, {}).ok());
  const auto message = [](const CacheWriteArgs& wrong) {
    return std::string(CacheWrite(wrong, {}).message());
  };
  CacheWriteArgs wrong = args;
  wrong.kv_lora_rank = 0;
  EXPECT_NE(message(wrong).find("kv_lora_rank is 0, want 1 to 6"), std::string::npos);
  wrong = args;
  wrong.kv_lora_rank = 5;
  EXPECT_NE(message(wrong).find("rows of 12 bytes, an int8 latent of 5 + 1"), std::string::npos);
  wrong = args;
  wrong.column = 4;
  EXPECT_NE(message(wrong).find("column is 4, want 0"), std::string::npos);
}

TEST(Validation, GqaTakesNoInt8Cache) {
  std::vector<float> q(4), out(4);
  alignas(4) int8_t cache[8] = {};
  const int32_t cu_q[] = {0, 1}, kv_len = 1, page = 0;
  const ConstTensor view(cache, DType::kI8, {1, 2, 1, 4});
  const Status status = Gqa({ConstTensor(q.data(), DType::kF32, {1, 1, 4}),
                             view,
                             view,
                             PagedBatch{1, cu_q, &kv_len, &page, 1, 2},
                             1,
                             true,
                             Tensor(out.data(), DType::kF32, {1, 1, 4}),
                             {}},
                            {});
  EXPECT_NE(status.message().find("k_cache is i8, want f32, f16, bf16"), std::string::npos)
      << status.message();
}

}  // namespace
}  // namespace mla
