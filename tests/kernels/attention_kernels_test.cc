// Every attention kernel against the reference, on every instruction set of the machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/isa.h"
#include "mla/attention.h"
#include "mla/int8_latent.h"
#include "support/attention_case.h"
#include "support/every_isa.h"

namespace mla::test {
namespace {

// One way to compute: an instruction set, a kernel and a mode.
struct Variant {
  std::string_view isa;
  std::string_view kernel;
  ComputeMode mode;
};

bool HasVnni() {
  static const bool has = cpu::UsesAvx512Vnni();  // before any limit
  return has;
}

bool IsFor(const Variant& variant, const AttentionCase& c) {
  if (variant.kernel == "cpu_avx512_vnni") {
    return c.op == Operator::kMlaAbsorbed && c.cache == DType::kI8;
  }
  if (variant.kernel == "cpu_amx_bf16") {
    return c.cache == DType::kBF16 || (c.op == Operator::kMlaExpanded && c.cache == DType::kI8);
  }
  return variant.kernel != "cpu_avx512_bf16" || c.cache == DType::kBF16 || c.cache == DType::kI8;
}

std::vector<Variant> Variants() {
  std::vector<Variant> variants;
  for (std::string_view isa : TestedIsas()) {
    if (isa == "amx_bf16") {
      variants.push_back({isa, "cpu_amx_bf16", ComputeMode::kBF16});
      continue;
    }
    if (isa == "avx512_bf16") {
      variants.push_back({isa, "cpu_avx512_bf16", ComputeMode::kBF16});
      if (HasVnni()) variants.push_back({isa, "cpu_avx512_vnni", ComputeMode::kBF16});
      continue;  // the others run the same code as with avx512
    }
    variants.push_back({isa, "cpu_simd", ComputeMode::kF32});
    variants.push_back({isa, "cpu_simd", ComputeMode::kBF16});
  }
  return variants;
}

class AttentionKernelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (Variants().empty()) GTEST_SKIP() << "this machine lacks what MLA_TEST_ISA asks for";
  }

  ~AttentionKernelsTest() override {
    EXPECT_TRUE(cpu::LimitIsa(cpu::SupportedIsas().front()).ok());
  }

  Context MakeContext(std::string_view kernel, ComputeMode mode) {
    Context context;
    context.workspace = &workspace_;
    context.kernel = kernel;
    context.compute = mode;
    return context;
  }

  // Compares all variants with the reference; counts those that ran.
  void Check(const AttentionCase& c) {
    const AttentionMemory memory(c);
    const AttentionResult want = memory.Run(MakeContext("reference", ComputeMode::kF32));
    for (const Variant& variant : Variants()) {
      if (!IsFor(variant, c)) continue;
      ASSERT_TRUE(cpu::LimitIsa(variant.isa).ok());
      const AttentionResult got = memory.Run(MakeContext(variant.kernel, variant.mode));
      const bool vnni = variant.kernel == "cpu_avx512_vnni";
      const Tolerance tolerance = ToleranceFor(c.op, variant.mode);
      EXPECT_EQ(FindMismatch(got, want, tolerance), "")
          << variant.isa << " " << variant.kernel << " " << ComputeModeName(variant.mode) << " "
          << c.ToString();
      double& worst =
          vnni ? worst_vnni_ : worst_[static_cast<int>(c.op)][static_cast<int>(variant.mode)];
      worst = std::max(worst, WorstRatio(got, want, tolerance));
    }
  }

  // The error as a share of the tolerance, to keep the table honest.
  void RecordWorst() {
    const char* names[] = {"absorbed", "expanded", "gqa"};
    const std::vector<Variant> variants = Variants();
    const auto ran = [&](auto is) { return std::ranges::any_of(variants, is); };
    for (int op = 0; op < 3; ++op) {
      for (const ComputeMode mode : {ComputeMode::kF32, ComputeMode::kBF16}) {
        if (!ran([&](const Variant& v) { return v.mode == mode; })) continue;
        const double worst = worst_[op][static_cast<int>(mode)];
        RecordProperty(Concat(names[op], "_", ComputeModeName(mode)), Concat(worst));
        EXPECT_GT(worst, 0.02) << names[op] << ": nothing was compared, or the tolerance is idle";
      }
    }
    if (!ran([](const Variant& v) { return v.kernel == "cpu_avx512_vnni"; })) return;
    RecordProperty("absorbed_int8", Concat(worst_vnni_));
    EXPECT_GT(worst_vnni_, 0.02) << "int8: nothing was compared, or the tolerance is idle";
  }

  Workspace workspace_;
  double worst_[3][2] = {};
  double worst_vnni_ = 0;
};

// Empty if the rows of `got` that have NaNs are those of tokens [begin, end) and heads [head_begin,
// head_end) that see any key; they have nothing else. The other rows are those of `want`.
std::string FindLostNaN(const AttentionResult& got, const AttentionResult& want, int64_t begin,
                        int64_t end, int32_t head_begin, int32_t head_end) {
  const int64_t heads = want.heads, d_v = want.d_v;
  for (int64_t row = 0; row < std::ssize(want.lse); ++row) {
    const int64_t token = row / heads, head = row % heads;
    const bool is_nan = token >= begin && token < end && head >= head_begin && head < head_end &&
                        want.lse[row] != -std::numeric_limits<float>::infinity();
    const auto right = [&](float g, float w) { return is_nan ? std::isnan(g) : g == w; };
    if (!right(got.lse[row], want.lse[row])) return Concat("lse ", row, " is ", got.lse[row]);
    for (int64_t i = row * d_v; i < (row + 1) * d_v; ++i) {
      if (!right(got.out[i], want.out[i])) return Concat("out ", i, " is ", got.out[i]);
    }
  }
  return "";
}

// Neither an empty row nor one without the NaN may come of it.
TEST_F(AttentionKernelsTest, NaNsAreNotLost) {
  std::vector<Variant> variants = Variants();
  variants.push_back({cpu::SupportedIsas().front(), "reference", ComputeMode::kF32});
  const std::vector<AttentionCase> grid = AttentionGrid();
  int64_t divided = 0;
  for (size_t i = 0; i < grid.size(); i += 2) {
    AttentionCase c = grid[i];
    c.with_lse = true;
    const AttentionMemory memory(c);
    const int64_t token = memory.num_tokens() / 2;
    AttentionMemory query = memory, key = memory;
    query.SetQueryToNaN(token, c.heads - 1);
    if (c.kv_lens[0] > 0) key.SetKeyToNaN(0, 0);
    divided += c.q_lens[0] == 1 && c.kv_lens[0] >= 1024;
    for (const Variant& variant : variants) {
      if (!IsFor(variant, c)) continue;
      ASSERT_TRUE(cpu::LimitIsa(variant.isa).ok());
      const Context context = MakeContext(variant.kernel, variant.mode);
      const AttentionResult want = memory.Run(context);
      const std::string where = Concat(variant.isa, " ", variant.kernel, " ", c.ToString());
      EXPECT_EQ(FindLostNaN(query.Run(context), want, token, token + 1, c.heads - 1, c.heads), "")
          << "query, " << where;
      EXPECT_EQ(
          FindLostNaN(key.Run(context), want, 0, c.kv_lens[0] > 0 ? c.q_lens[0] : 0, 0, c.heads),
          "")
          << "key, " << where;
    }
  }
  EXPECT_GT(divided, 0) << "no sequence's parts were merged";
}

TEST_F(AttentionKernelsTest, MatchReferenceOnTheGrid) {
  for (const AttentionCase& c : AttentionGrid()) Check(c);
  RecordWorst();
}

TEST_F(AttentionKernelsTest, MatchReferenceOnRandomShapes) {
  for (uint32_t seed = 1; seed <= 300; ++seed) Check(RandomAttentionCase(seed));
  RecordWorst();
}

// Latents of whole chunks of 32, which AMX tiles take from the cache: 16 keys on one page, on more,
// and one on each; and any number of rows of a tile.
TEST_F(AttentionKernelsTest, MatchReferenceOnAnyPagesAndRows) {
  AttentionCase c;
  c.op = Operator::kMlaAbsorbed;
  c.kv_lora_rank = 64;
  c.rope_dim = 32;
  c.q_lens = {1, 2};
  c.kv_lens = {150, 61};
  for (const int32_t page_size : {1, 3, 8, 15, 16, 20, 64}) {
    for (const int32_t heads : {1, 7, 16, 17, 32, 47, 64}) {
      c.page_size = page_size;
      c.heads = heads;
      c.strided = heads % 2 == 0;
      c.seed = static_cast<uint32_t>(page_size * heads);
      Check(c);
    }
  }
}

TEST_F(AttentionKernelsTest, WrongScaleIsFound) {
  for (const AttentionCase& c : AttentionGrid()) {
    if (c.kv_lens != std::vector<int32_t>{300} && c.kv_lens != std::vector<int32_t>{127}) continue;
    const AttentionMemory memory(c);
    const AttentionResult want = memory.Run(MakeContext("reference", ComputeMode::kF32));
    const AttentionResult got = memory.Run(MakeContext("cpu_simd", ComputeMode::kF32), 1.01f);
    EXPECT_NE(FindMismatch(got, want, ToleranceFor(c.op, ComputeMode::kF32)), "") << c.ToString();
    const AttentionResult bf16 = memory.Run(MakeContext("cpu_simd", ComputeMode::kBF16), 1.1f);
    EXPECT_NE(FindMismatch(bf16, want, ToleranceFor(c.op, ComputeMode::kBF16)), "") << c.ToString();
  }
}

TEST_F(AttentionKernelsTest, RefusalsNameTheLimit) {
  AttentionCase c = RandomAttentionCase(1);
  c.cache = DType::kF16;
  for (const Operator op : {Operator::kMlaAbsorbed, Operator::kMlaExpanded, Operator::kGqa}) {
    c.op = op;
    const AttentionMemory memory(c);
    EXPECT_EQ(memory.Refusal(MakeContext("cpu_simd", ComputeMode::kBF16)), std::nullopt);
    ASSERT_TRUE(cpu::LimitIsa(cpu::SupportedIsas().back()).ok());
    EXPECT_EQ(memory.Refusal(MakeContext("cpu_avx512_bf16", ComputeMode::kBF16)),
              "needs AVX512_BF16");
    EXPECT_EQ(memory.Refusal(MakeContext("cpu_amx_bf16", ComputeMode::kBF16)),
              "needs AMX tiles of bf16");
    ASSERT_TRUE(cpu::LimitIsa(cpu::SupportedIsas().front()).ok());
    if (cpu::UsesAmxBf16()) {
      EXPECT_EQ(memory.Refusal(MakeContext("cpu_amx_bf16", ComputeMode::kF32)),
                "compute must be bf16");
      EXPECT_EQ(memory.Refusal(MakeContext("cpu_amx_bf16", ComputeMode::kBF16)),
                op == Operator::kGqa           ? "caches must be bf16"
                : op == Operator::kMlaExpanded ? "cache must be bf16 or i8"
                                               : "cache must be bf16");
    }
    if (!cpu::UsesAvx512Bf16()) continue;
    EXPECT_EQ(memory.Refusal(MakeContext("cpu_avx512_bf16", ComputeMode::kF32)),
              "compute must be bf16");
    EXPECT_EQ(memory.Refusal(MakeContext("cpu_avx512_bf16", ComputeMode::kBF16)),
              op == Operator::kGqa ? "caches must be bf16" : "cache must be bf16 or i8");
    if (op != Operator::kMlaAbsorbed || !HasVnni()) continue;
    EXPECT_EQ(memory.Refusal(MakeContext("cpu_avx512_vnni", ComputeMode::kBF16)),
              "cache must be i8");
    EXPECT_EQ(memory.Refusal(MakeContext("cpu_avx512_vnni", ComputeMode::kF32)),
              "compute must be bf16");
  }
}

TEST_F(AttentionKernelsTest, Int8LatentsGoToTheIntegerKernel) {
  if (!HasVnni()) GTEST_SKIP() << "needs AVX512_VNNI and AVX512_BF16";
  const Int8LatentLayout layout{128, 64};
  const std::vector<char> page(layout.bytes());
  const int32_t cu_q[] = {0, 1}, kv_len = 1, page_id = 0;
  for (const int32_t heads : {1, 16, 128}) {
    const std::vector<float> q(heads * (128 + 64));
    std::vector<float> out(heads * 128);
    MlaAbsorbedArgs args;
    args.q = ConstTensor(q.data(), DType::kF32, {1, heads, 128 + 64});
    args.cache = ConstTensor(page.data(), DType::kI8, {1, 1, layout.bytes()});
    args.batch = {1, cu_q, &kv_len, &page_id, 1, 1};
    args.kv_lora_rank = 128;
    args.scale = 1;
    args.out = Tensor(out.data(), DType::kF32, {1, heads, 128});
    const Result<KernelVerdicts> verdicts =
        ExplainMlaAbsorbed(args, MakeContext("", ComputeMode::kBF16));
    ASSERT_TRUE(verdicts.ok()) << verdicts.message();
    const auto chosen = std::find_if(verdicts->begin(), verdicts->end(),
                                     [](const KernelVerdict& v) { return v.refusal.empty(); });
    ASSERT_NE(chosen, verdicts->end());
    EXPECT_EQ(chosen->kernel, "cpu_avx512_vnni") << heads;
  }
}

// Keys with scales of NaN have no share in the output of a query that does not see them.
TEST_F(AttentionKernelsTest, Int8KeysOfNaNsStayHidden) {
  if (!HasVnni()) GTEST_SKIP() << "needs AVX512_VNNI and AVX512_BF16";
  constexpr int32_t kRank = 128, kKeys = 64, kQueries = 17, kSeen = kKeys - kQueries + 1;
  const Int8LatentLayout layout{kRank, 0};
  const std::vector<float> q(kQueries * kRank, 0.01f);
  const int32_t cu_q[] = {0, kQueries}, kv_len = kKeys, page_id = 0;
  const auto run = [&](float hidden_scale) {
    std::vector<int8_t> page(kKeys * layout.bytes(), 3);
    for (int32_t key = 0; key < kKeys; ++key) {
      const float scale = key < kSeen ? 0.5f / static_cast<float>(1 + key) : hidden_scale;
      std::memcpy(&page[key * layout.bytes() + layout.scales_offset()], &scale, sizeof(scale));
    }
    std::vector<float> out(kQueries * kRank);
    MlaAbsorbedArgs args;
    args.q = ConstTensor(q.data(), DType::kF32, {kQueries, 1, kRank});
    args.cache = ConstTensor(page.data(), DType::kI8, {1, kKeys, layout.bytes()});
    args.batch = {1, cu_q, &kv_len, &page_id, 1, kKeys};
    args.kv_lora_rank = kRank;
    args.scale = 1;
    args.causal = true;
    args.out = Tensor(out.data(), DType::kF32, {kQueries, 1, kRank});
    const Status status = MlaAbsorbed(args, MakeContext("cpu_avx512_vnni", ComputeMode::kBF16));
    EXPECT_TRUE(status.ok()) << status.message();
    return out;
  };
  const std::vector<float> want = run(0.125f);
  const std::vector<float> got = run(std::numeric_limits<float>::quiet_NaN());
  for (int32_t i = 0; i < kRank; ++i) {
    EXPECT_EQ(got[i], want[i]);
    EXPECT_TRUE(std::isnan(got[(kQueries - 1) * kRank + i]));
  }
}

}  // namespace
}  // namespace mla::test
