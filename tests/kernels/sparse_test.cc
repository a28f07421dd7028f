// mla_index_topk and mla_sparse: every kernel against the reference, on every instruction set, over
// poisoned shuffled pages; and what the reference itself must give.
#include "mla/sparse.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "base/threads.h"
#include "mla/elementwise.h"
#include "mla/int8_latent.h"
#include "support/every_isa.h"
#include "support/test_tensor.h"
#include "support/tolerance.h"

namespace mla::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr Context kReference = {.kernel = "reference"};

// Sequences over shuffled pages of a cache whose unused rows are NaN.
struct SparseCase {
  std::vector<int32_t> q_lens, kv_lens;
  int32_t page_size = 16;
  int32_t heads = 5;
  int32_t dim = 32;   // of a cache row
  int32_t rank = 24;  // mla_sparse: kv_lora_rank
  int32_t top_k = 7;
  DType cache_dtype = DType::kF32;
  bool causal = true;
};

class SparseMemory {
 public:
  // `whole`: small whole numbers, whose products and sums are exact in fp32 and often equal.
  SparseMemory(const SparseCase& c, bool whole) : c_(c), random_(11) {
    cu_q_.push_back(1);  // the first query token belongs to no sequence
    int64_t pages = 3, most = 0;
    for (size_t s = 0; s < c.q_lens.size(); ++s) {
      cu_q_.push_back(cu_q_.back() + c.q_lens[s]);
      const int64_t needed = (c.kv_lens[s] + c.page_size - 1) / c.page_size;
      pages += needed;
      most = std::max(most, needed);
    }
    stride_ = most + 1;
    std::vector<int32_t> free(pages);
    for (int64_t p = 0; p < pages; ++p) free[p] = static_cast<int32_t>(p);
    std::shuffle(free.begin(), free.end(), random_);
    page_table_.assign(c.q_lens.size() * stride_, std::numeric_limits<int32_t>::max());
    const bool int8 = c.cache_dtype == DType::kI8;
    cache_ = TestTensor(int8 ? DType::kF32 : c.cache_dtype, {pages, c.page_size, c.dim});
    const int64_t latent_bytes = Latent().bytes();
    if (int8) int8_.assign(pages * c.page_size * latent_bytes, 0xff);
    for (size_t s = 0; s < c.q_lens.size(); ++s) {
      for (int32_t j = 0; j < c.kv_lens[s]; ++j) {
        int32_t& page = page_table_[s * stride_ + j / c.page_size];
        if (j % c.page_size == 0) {
          page = free.back();
          free.pop_back();
        }
        const int64_t row = int64_t{page} * c.page_size + j % c.page_size;
        for (int32_t d = 0; d < c.dim; ++d) cache_.Set(row * c.dim + d, Draw(whole));
        if (!int8) continue;
        const Tensor all(int8_.data(), DType::kI8, {pages * c.page_size, latent_bytes});
        const Status status =
            CacheWrite({.x = {cache_.view().as<float>() + row * c.dim, DType::kF32, {1, c.dim}},
                        .slots = {&row, 1},
                        .cache = all,
                        .kv_lora_rank = c.rank},
                       kReference);
        EXPECT_TRUE(status.ok()) << status.message();
      }
    }
    q_ = TestTensor(DType::kF32, {tokens(), c.heads, c.dim});
    weights_ = TestTensor(DType::kF32, {tokens(), c.heads});
    for (int64_t i = 0; i < q_.size(); ++i) q_.Set(i, Draw(whole));
    for (int64_t i = 0; i < weights_.size(); ++i) weights_.Set(i, Draw(whole));
  }

  int64_t tokens() const { return cu_q_.back() + 1; }  // and the last to none
  const std::vector<int32_t>& cu_q() const { return cu_q_; }
  TestTensor& weights() { return weights_; }

  PagedBatch Batch() const {
    return {static_cast<int32_t>(c_.q_lens.size()),
            cu_q_.data(),
            c_.kv_lens.data(),
            page_table_.data(),
            stride_,
            c_.page_size};
  }

  std::vector<int32_t> Choose(const Context& context) const {
    std::vector<int32_t> indices(tokens() * c_.top_k, -7);
    const Status status =
        MlaIndexTopk({.q = q_.view(),
                      .weights = weights_.view(),
                      .cache = cache_.view(),
                      .batch = Batch(),
                      .top_k = c_.top_k,
                      .causal = c_.causal,
                      .indices = Tensor(indices.data(), DType::kI32, {tokens(), c_.top_k})},
                     context);
    EXPECT_TRUE(status.ok()) << status.message();
    return indices;
  }

  struct Attended {
    std::vector<float> out, lse;
  };
  Status Attend(const std::vector<int32_t>& indices, const Context& context, Attended& to) const {
    to.out.assign(tokens() * c_.heads * c_.rank, -7);
    to.lse.assign(tokens() * c_.heads, -7);
    return MlaSparse({.q = q_.view(),
                      .cache = Latents(),
                      .indices = ConstTensor(indices.data(), DType::kI32, {tokens(), c_.top_k}),
                      .batch = Batch(),
                      .kv_lora_rank = c_.rank,
                      .scale = 0.2f,
                      .out = Tensor(to.out.data(), DType::kF32, {tokens(), c_.heads, c_.rank}),
                      .lse = Tensor(to.lse.data(), DType::kF32, {tokens(), c_.heads})},
                     context);
  }

  // Dense absorbed attention of the same queries.
  Attended AttendToAll(const Context& context) const {
    Attended all{std::vector<float>(tokens() * c_.heads * c_.rank, -7),
                 std::vector<float>(tokens() * c_.heads, -7)};
    MlaAbsorbedArgs args;
    args.q = q_.view();
    args.cache = Latents();
    args.batch = Batch();
    args.kv_lora_rank = c_.rank;
    args.scale = 0.2f;
    args.causal = c_.causal;
    args.out = Tensor(all.out.data(), DType::kF32, {tokens(), c_.heads, c_.rank});
    args.lse = Tensor(all.lse.data(), DType::kF32, {tokens(), c_.heads});
    const Status status = MlaAbsorbed(args, context);
    EXPECT_TRUE(status.ok()) << status.message();
    return all;
  }

 private:
  Int8LatentLayout Latent() const { return {c_.rank, c_.dim - c_.rank}; }
  ConstTensor Latents() const {
    if (int8_.empty()) return cache_.view();
    return ConstTensor(int8_.data(), DType::kI8,
                       {cache_.view().dim(0), c_.page_size, Latent().bytes()});
  }

  float Draw(bool whole) {
    if (whole) return static_cast<float>(std::uniform_int_distribution<int>(-2, 2)(random_));
    return std::normal_distribution<float>()(random_);
  }

  const SparseCase& c_;
  std::mt19937 random_;
  std::vector<int32_t> cu_q_, page_table_;
  int64_t stride_ = 0;
  TestTensor cache_, q_, weights_;
  std::vector<uint8_t> int8_;  // the cache's rows as int8 latents, if asked for
};

std::vector<SparseCase> Cases() {
  std::vector<SparseCase> cases;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kI8}) {
    cases.push_back({.q_lens = {1}, .kv_lens = {200}, .cache_dtype = dtype});
    cases.push_back({.q_lens = {9, 1, 0, 30, 4},
                     .kv_lens = {9, 77, 5, 63, 0},
                     .page_size = 5,
                     .cache_dtype = dtype});
  }
  cases.push_back({.q_lens = {3, 2}, .kv_lens = {40, 3}, .page_size = 1, .heads = 1, .top_k = 1});
  cases.push_back({.q_lens = {2}, .kv_lens = {1500}, .heads = 70, .top_k = 500});
  cases.push_back({.q_lens = {3}, .kv_lens = {33}, .dim = 7, .rank = 3, .top_k = 40});
  cases.push_back({.q_lens = {4}, .kv_lens = {50}, .causal = false});
  return cases;
}

TEST(IndexTopk, EveryKernelChoosesWhatTheReferenceDoes) {
  ThreadPool threads(3);
  for (const SparseCase& c : Cases()) {
    const SparseMemory memory(c, /*whole=*/true);
    const std::vector<int32_t> want = memory.Choose(kReference);
    ForEachIsa([&](std::string_view) {
      for (const ComputeMode mode : {ComputeMode::kF32, ComputeMode::kBF16}) {
        EXPECT_EQ(memory.Choose({.compute = mode, .kernel = "cpu_simd"}), want);
        EXPECT_EQ(memory.Choose({.threads = &threads, .compute = mode, .kernel = "cpu_simd"}),
                  want);
      }
    });
  }
}

// Ascending, within what is visible, and then -1; tokens of no sequence are left alone.
TEST(IndexTopk, RowsAreAscendingAndPadded) {
  const SparseCase c = {.q_lens = {5}, .kv_lens = {10}, .top_k = 8};
  const SparseMemory memory(c, /*whole=*/true);
  const std::vector<int32_t> rows = memory.Choose({});
  for (int32_t i = 0; i < 5; ++i) {
    const int32_t* row = rows.data() + (memory.cu_q()[0] + i) * c.top_k;
    const int32_t visible = 6 + i;
    for (int32_t k = 0; k < c.top_k; ++k) {
      if (visible <= c.top_k) {
        EXPECT_EQ(row[k], k < visible ? k : -1);
      } else {
        EXPECT_LT(k > 0 ? row[k - 1] : -1, row[k]);
        EXPECT_LT(row[k], visible);
      }
    }
  }
  EXPECT_EQ(rows.front(), -7);
  EXPECT_EQ(rows.back(), -7);
}

// With weights of zero every score is equal.
TEST(IndexTopk, EqualScoresGoToTheLowestIndex) {
  const SparseCase c = {.q_lens = {1}, .kv_lens = {100}, .top_k = 9};
  SparseMemory memory(c, /*whole=*/true);
  for (int64_t i = 0; i < memory.weights().size(); ++i) memory.weights().Set(i, 0);
  for (const std::string_view kernel : {"cpu_simd", "reference"}) {
    const std::vector<int32_t> rows = memory.Choose({.kernel = kernel});
    for (int32_t k = 0; k < c.top_k; ++k) EXPECT_EQ(rows[c.top_k + k], k) << kernel;
  }
}

TEST(MlaSparse, EveryKernelMatchesTheReference) {
  for (const SparseCase& c : Cases()) {
    const SparseMemory memory(c, /*whole=*/false);
    const std::vector<int32_t> indices = memory.Choose(kReference);
    SparseMemory::Attended want, got;
    std::vector<int32_t> holes = indices;  // -1 may stand anywhere in a row
    for (size_t i = 0; i < holes.size(); i += 3) holes[i] = -1;
    for (const std::vector<int32_t>& chosen : {indices, holes}) {
      ASSERT_TRUE(memory.Attend(chosen, kReference, want).ok());
      ForEachIsa([&](std::string_view isa) {
        const bool amx = isa == "amx_bf16";
        const bool bf16 = amx || isa == "avx512_bf16";
        const bool int8 = c.cache_dtype == DType::kI8;
        if (bf16 && c.cache_dtype != DType::kBF16 && !int8) return;
        const ComputeMode mode = bf16 ? ComputeMode::kBF16 : ComputeMode::kF32;
        const Context context = {.compute = mode,
                                 .kernel = !bf16                           ? "cpu_simd"
                                           : int8 && cpu::UsesAvx512Vnni() ? "cpu_avx512_vnni"
                                           : amx && !int8                  ? "cpu_amx_bf16"
                                                                           : "cpu_avx512_bf16"};
        const Status status = memory.Attend(chosen, context, got);
        ASSERT_TRUE(status.ok()) << status.message();
        const Tolerance tolerance = ToleranceFor(Operator::kMlaAbsorbed, mode);
        for (size_t i = 0; i < want.out.size(); ++i) {
          ASSERT_NEAR(got.out[i], want.out[i], tolerance.Limit(std::abs(want.out[i]))) << i;
        }
        for (size_t i = 0; i < want.lse.size(); ++i) {
          if (want.lse[i] == -kInfinity) {
            ASSERT_EQ(got.lse[i], -kInfinity);
          } else {
            ASSERT_NEAR(got.lse[i], want.lse[i], tolerance.Limit(std::abs(want.lse[i]))) << i;
          }
        }
      });
    }
  }
}

// Where all tokens are chosen, it is dense attention.
TEST(MlaSparse, OverAllTokensIsMlaAbsorbed) {
  const SparseCase c = {.q_lens = {6, 1}, .kv_lens = {40, 21}, .top_k = 64};
  const SparseMemory memory(c, /*whole=*/false);
  const std::vector<int32_t> indices = memory.Choose({});
  for (const std::string_view kernel : {"cpu_simd", "reference"}) {
    const SparseMemory::Attended want = memory.AttendToAll({.kernel = kernel});
    SparseMemory::Attended got;
    ASSERT_TRUE(memory.Attend(indices, {.kernel = kernel}, got).ok());
    for (size_t i = 0; i < want.out.size(); ++i) ASSERT_NEAR(got.out[i], want.out[i], 1e-5) << i;
  }
}

TEST(MlaSparse, NothingChosenGivesZero) {
  const SparseCase c = {.q_lens = {2}, .kv_lens = {40}};
  const SparseMemory memory(c, /*whole=*/false);
  const std::vector<int32_t> none(memory.tokens() * c.top_k, -1);
  for (const std::string_view kernel : {"cpu_simd", "reference"}) {
    SparseMemory::Attended got;
    ASSERT_TRUE(memory.Attend(none, {.kernel = kernel}, got).ok());
    for (int64_t i = 0; i < 2 * c.heads; ++i) {
      EXPECT_EQ(got.lse[c.heads + i], -kInfinity);
      for (int32_t d = 0; d < c.rank; ++d) EXPECT_EQ(got.out[(c.heads + i) * c.rank + d], 0.0f);
    }
  }
}

TEST(MlaSparse, IndicesOutsideTheSequenceAreRefused) {
  const SparseCase c = {.q_lens = {1, 1}, .kv_lens = {40, 12}};
  const SparseMemory memory(c, /*whole=*/false);
  SparseMemory::Attended got;
  for (const int32_t bad : {12, -2}) {
    std::vector<int32_t> indices(memory.tokens() * c.top_k, -1);
    indices[2 * c.top_k + 3] = bad;
    const Status status = memory.Attend(indices, {}, got);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.message().find("indices[2][3] is " + std::to_string(bad)), std::string::npos)
        << status.message();
    EXPECT_EQ(got.out[0], -7);
  }
}

TEST(IndexTopk, BadArgumentsAreRefused) {
  const TestTensor q(DType::kF32, {1, 2, 4}), weights(DType::kF32, {1, 3}),
      cache(DType::kF32, {1, 16, 4});
  std::vector<int32_t> indices(1);
  MlaIndexTopkArgs args;
  args.q = q.view();
  args.weights = weights.view();
  args.cache = cache.view();
  args.batch.page_size = 16;
  args.top_k = 1;
  args.indices = Tensor(indices.data(), DType::kI32, {1, 1});
  EXPECT_NE(MlaIndexTopk(args, {}).message().find("weights has shape [1, 3]"), std::string::npos);
  args.weights = ConstTensor(q.view().data(), DType::kF32, {1, 2});
  EXPECT_TRUE(MlaIndexTopk(args, {}).ok());
  args.top_k = 0;
  EXPECT_NE(MlaIndexTopk(args, {}).message().find("top_k is 0"), std::string::npos);
}

}  // namespace
}  // namespace mla::test
