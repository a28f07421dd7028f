// What must not change a bit: threads, neighbours in the batch, the workspace. And memory far away.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/isa.h"
#include "support/attention_case.h"

namespace mla::test {
namespace {

struct KernelMode {
  std::string_view kernel;
  ComputeMode mode;
};

// Those for all caches, and with `c` those for its.
std::vector<KernelMode> KernelModes(const AttentionCase* c = nullptr) {
  std::vector<KernelMode> modes = {{"cpu_simd", ComputeMode::kF32},
                                   {"cpu_simd", ComputeMode::kBF16}};
  if (cpu::UsesAvx512Bf16()) modes.push_back({"cpu_avx512_bf16", ComputeMode::kBF16});
  const bool absorbed_int8 =
      c != nullptr && c->op == Operator::kMlaAbsorbed && c->cache == DType::kI8;
  if (cpu::UsesAmxBf16() && !absorbed_int8) {
    modes.push_back({"cpu_amx_bf16", ComputeMode::kBF16});
  }
  if (cpu::UsesAvx512Vnni() && absorbed_int8) {
    modes.push_back({"cpu_avx512_vnni", ComputeMode::kBF16});
  }
  return modes;
}

// In bf16 so that every kernel takes them, or int8. Threads share the items of short sequences, and
// divide the keys of long ones.
std::vector<AttentionCase> Cases() {
  std::vector<AttentionCase> cases;
  for (AttentionCase c : AttentionGrid()) {
    if (c.cache != DType::kI8) c.cache = DType::kBF16;
    cases.push_back(c);
  }
  return cases;
}

TEST(AttentionInvarianceTest, ThreadsAndWorkspaceDoNotChangeABit) {
  ThreadPool two(2), three(3);
  Workspace workspace;
  for (const AttentionCase& c : Cases()) {
    const AttentionMemory memory(c);
    for (const KernelMode& m : KernelModes(&c)) {
      Context context;
      context.kernel = m.kernel;
      context.compute = m.mode;
      const AttentionResult want = memory.Run(context);
      context.workspace = &workspace;  // holds the numbers of the call before
      EXPECT_TRUE(memory.Run(context) == want) << c.ToString();
      context.threads = &two;
      EXPECT_TRUE(memory.Run(context) == want) << m.kernel << " " << c.ToString();
      context.threads = &three;
      EXPECT_TRUE(memory.Run(context) == want) << m.kernel << " " << c.ToString();
    }
  }
}

TEST(AttentionInvarianceTest, ASequenceAloneIsTheSameAsInABatch) {
  Workspace workspace;
  for (const AttentionCase& c : Cases()) {
    const AttentionMemory memory(c);
    for (const KernelMode& m : KernelModes(&c)) {
      Context context;
      context.workspace = &workspace;
      context.kernel = m.kernel;
      context.compute = m.mode;
      const AttentionResult all = memory.Run(context);
      int64_t token = 0;
      for (size_t s = 0; s < c.q_lens.size(); ++s) {
        const AttentionResult alone = memory.Only(static_cast<int32_t>(s)).Run(context);
        EXPECT_TRUE(alone == all.Tokens(token, token + c.q_lens[s]))
            << m.kernel << " sequence " << s << " of " << c.ToString();
        token += c.q_lens[s];
      }
    }
  }
}

// Address space that costs memory only where it is touched.
class SparseMemory {
 public:
  explicit SparseMemory(int64_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~SparseMemory() {
    if (ok()) munmap(data_, bytes_);
  }
  bool ok() const { return data_ != MAP_FAILED; }
  char* data() const { return static_cast<char*>(data_); }

 private:
  int64_t bytes_;
  void* data_;
};

TEST(AttentionInvarianceTest, PagesBeyondFourGibibytesAreRead) {
  constexpr int32_t kHeads = 4, kRank = 512, kDim = kRank + 64, kPage = 64;
  constexpr int64_t kPageBytes = int64_t{kPage} * kDim * 2;
  constexpr auto kPages = static_cast<int32_t>((int64_t{5} << 30) / kPageBytes);
  SparseMemory far(kPages * kPageBytes);
  if (!far.ok()) GTEST_SKIP() << "5 GiB of address space are not to be had";
  const std::vector<int32_t> table = {kPages - 1, kPages / 2, kPages - 3};
  constexpr int32_t kLen = 2 * kPage + 5;
  std::vector<uint16_t> near(3 * kPage * kDim);
  uint32_t state = 1;
  for (uint16_t& x : near) {
    state = state * 1664525u + 1013904223u;
    x = F32ToBf16(static_cast<float>(state >> 8) * 0x1p-23f - 1);
  }
  for (size_t i = 0; i < table.size(); ++i) {
    ASSERT_GT(table[i] * kPageBytes, int64_t{2} << 30);
    std::memcpy(far.data() + table[i] * kPageBytes, near.data() + i * kPage * kDim, kPageBytes);
  }
  std::vector<float> q(kHeads * kDim, 0.125f);
  for (size_t i = 0; i < q.size(); i += 3) q[i] = -1;
  const std::vector<int32_t> cu_q = {0, 1}, in_order = {0, 1, 2};
  const auto run = [&](const void* cache, int32_t pages, const std::vector<int32_t>& ids,
                       const KernelMode& m) {
    AttentionResult r{kHeads, kRank, std::vector<float>(kHeads * kRank),
                      std::vector<float>(kHeads)};
    Context context;
    context.kernel = m.kernel;
    context.compute = m.mode;
    const Status status =
        MlaAbsorbed({ConstTensor(q.data(), DType::kF32, {1, kHeads, kDim}),
                     ConstTensor(cache, DType::kBF16, {pages, kPage, kDim}),
                     PagedBatch{1, cu_q.data(), &kLen, ids.data(), 3, kPage}, kRank, 0.05f, true,
                     Tensor(r.out.data(), DType::kF32, {1, kHeads, kRank}),
                     Tensor(r.lse.data(), DType::kF32, {1, kHeads})},
                    context);
    EXPECT_TRUE(status.ok()) << status.message();
    return r;
  };
  for (const KernelMode& m : KernelModes()) {
    const AttentionResult want = run(near.data(), 3, in_order, m);
    EXPECT_TRUE(run(far.data(), kPages, table, m) == want) << m.kernel;
    EXPECT_GT(std::abs(want.out[0]), 0);
  }
}

// Attention over halves of the keys, merged, is attention over all of them.
TEST(AttentionInvarianceTest, MergedHalvesAreTheWhole) {
  constexpr int32_t kHeads = 3, kRank = 20, kDim = 28, kPage = 16;
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  constexpr float kMinusInf = -std::numeric_limits<float>::infinity();
  std::vector<float> cache(4 * kPage * kDim), q(2 * kHeads * kDim);
  for (size_t i = 0; i < cache.size(); ++i) cache[i] = std::sin(0.37f * static_cast<float>(i));
  for (size_t i = 0; i < q.size(); ++i) q[i] = std::cos(0.59f * static_cast<float>(i));
  const int32_t cu_q[] = {0, 2};
  const std::vector<int32_t> pages = {0, 1, 2, 3};
  const auto run = [&](const int32_t* table, int32_t kv_len, float* out, float* lse) {
    const Status status = MlaAbsorbed(
        {ConstTensor(q.data(), DType::kF32, {2, kHeads, kDim}),
         ConstTensor(cache.data(), DType::kF32, {4, kPage, kDim}),
         PagedBatch{1, cu_q, &kv_len, table, 4, kPage}, kRank, 0.3f, false,
         Tensor(out, DType::kF32, {2, kHeads, kRank}), Tensor(lse, DType::kF32, {2, kHeads})},
        Context{});
    ASSERT_TRUE(status.ok()) << status.message();
  };
  constexpr int kOut = 2 * kHeads * kRank, kLse = 2 * kHeads;
  // Three parts: pages 0 and 1, pages 2 and 3, and one that saw nothing and holds NaN.
  std::vector<float> part_out(3 * kOut, kNaN), part_lse(3 * kLse, kMinusInf);
  run(&pages[0], 32, &part_out[0], &part_lse[0]);
  run(&pages[2], 29, &part_out[kOut], &part_lse[kLse]);
  AttentionResult whole{kHeads, kRank, std::vector<float>(kOut), std::vector<float>(kLse)};
  run(&pages[0], 61, whole.out.data(), whole.lse.data());
  AttentionResult merged = whole;
  const auto merge = [&] {
    return MergePartials({ConstTensor(part_out.data(), DType::kF32, {3, 2, kHeads, kRank}),
                          ConstTensor(part_lse.data(), DType::kF32, {3, 2, kHeads}),
                          Tensor(merged.out.data(), DType::kF32, {2, kHeads, kRank}),
                          Tensor(merged.lse.data(), DType::kF32, {2, kHeads})},
                         Context{});
  };
  ASSERT_TRUE(merge().ok());
  EXPECT_EQ(FindMismatch(merged, whole, ToleranceFor(Operator::kMlaAbsorbed, ComputeMode::kF32)),
            "");
  part_lse[0] = kMinusInf;  // of one row: the second part is all that it has
  part_lse[kLse] = kNaN;
  const AttentionResult before = merged;
  ASSERT_TRUE(merge().ok());
  for (int row = 0; row < kLse; ++row) {
    EXPECT_TRUE(row == 0 ? std::isnan(merged.lse[row]) : merged.lse[row] == before.lse[row]);
    const float first = merged.out[row * kRank];
    EXPECT_TRUE(row == 0 ? std::isnan(first) : first == before.out[row * kRank]);
  }
  std::fill(part_lse.begin(), part_lse.end(), kMinusInf);
  ASSERT_TRUE(merge().ok());
  for (float x : merged.out) EXPECT_EQ(x, 0);
  for (float x : merged.lse) EXPECT_EQ(x, kMinusInf);
}

// With q = 0 every visible key counts alike: lse is the log of how many there are. Checked against
// the contract's own words, for the reference too, which shares the mask with the kernels.
TEST(AttentionInvarianceTest, CausalAlignsAtTheEnd) {
  constexpr int32_t kPage = 4, kTokens = 9;
  const std::vector<float> q(kTokens, 0), k(3 * kPage, 1), v(3 * kPage, 2);
  const std::vector<int32_t> table = {2, 0, 1};
  std::vector<KernelMode> modes = KernelModes();
  modes[1] = {"reference", ComputeMode::kF32};
  for (const int32_t kv_len : {0, 1, 5, 9, 11}) {
    for (const KernelMode& m : modes) {
      if (m.mode != ComputeMode::kF32) continue;
      const int32_t cu_q[] = {0, kTokens};
      std::vector<float> out(kTokens), lse(kTokens);
      Context context;
      context.kernel = m.kernel;
      const Status status = Gqa({ConstTensor(q.data(), DType::kF32, {kTokens, 1, 1}),
                                 ConstTensor(k.data(), DType::kF32, {3, kPage, 1, 1}),
                                 ConstTensor(v.data(), DType::kF32, {3, kPage, 1, 1}),
                                 PagedBatch{1, cu_q, &kv_len, table.data(), 3, kPage}, 1.0f, true,
                                 Tensor(out.data(), DType::kF32, {kTokens, 1, 1}),
                                 Tensor(lse.data(), DType::kF32, {kTokens, 1})},
                                context);
      ASSERT_TRUE(status.ok()) << status.message();
      for (int32_t i = 0; i < kTokens; ++i) {
        int32_t seen = 0;
        for (int32_t j = 0; j < kv_len; ++j) seen += j <= kv_len - kTokens + i;
        EXPECT_EQ(out[i], seen == 0 ? 0 : 2) << m.kernel << " " << kv_len << " " << i;
        if (seen == 0) {
          EXPECT_EQ(lse[i], -std::numeric_limits<float>::infinity());
        } else {
          EXPECT_NEAR(lse[i], std::log(static_cast<float>(seen)), 1e-6);
        }
      }
    }
  }
}

// Extreme scores neither overflow nor lose the row.
TEST(AttentionInvarianceTest, LargeScoresStayFinite) {
  const float q[] = {100, 100};
  const float k[] = {100, 100, -100, -100, 99, 100};
  const float v[] = {1, 2, 3};
  const int32_t cu_q[] = {0, 1}, table[] = {0}, kv_len = 3;
  float out = 0, lse = 0;
  Context context;
  context.kernel = "cpu_simd";
  const Status status =
      Gqa({ConstTensor(q, DType::kF32, {1, 1, 2}), ConstTensor(k, DType::kF32, {1, 3, 1, 2}),
           ConstTensor(v, DType::kF32, {1, 3, 1, 1}), PagedBatch{1, cu_q, &kv_len, table, 1, 3},
           1.0f, true, Tensor(&out, DType::kF32, {1, 1, 1}), Tensor(&lse, DType::kF32, {1, 1})},
          context);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(out, 1);
  EXPECT_NEAR(lse, 20000, 0.01);
}

}  // namespace
}  // namespace mla::test
