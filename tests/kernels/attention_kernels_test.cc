// Every attention kernel against the reference, on every instruction set of the machine.
#include <gtest/gtest.h>

#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/isa.h"
#include "mla/attention.h"
#include "mla/int8_latent.h"
#include "support/attention_case.h"

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
  return variant.kernel != "cpu_avx512_bf16" || c.cache == DType::kBF16 || c.cache == DType::kI8;
}

std::vector<Variant> Variants() {
  std::vector<Variant> variants;
  for (std::string_view isa : cpu::SupportedIsas()) {
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
      const Tolerance tolerance = vnni ? kMlaAbsorbedInt8 : ToleranceFor(c.op, variant.mode);
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
    for (int op = 0; op < 3; ++op) {
      for (const ComputeMode mode : {ComputeMode::kF32, ComputeMode::kBF16}) {
        const double worst = worst_[op][static_cast<int>(mode)];
        RecordProperty(Concat(names[op], "_", ComputeModeName(mode)), Concat(worst));
        EXPECT_GT(worst, 0.02) << names[op] << ": nothing was compared, or the tolerance is idle";
      }
    }
    if (!HasVnni()) return;
    RecordProperty("absorbed_int8", Concat(worst_vnni_));
    EXPECT_GT(worst_vnni_, 0.02) << "int8: nothing was compared, or the tolerance is idle";
  }

  Workspace workspace_;
  double worst_[3][2] = {};
  double worst_vnni_ = 0;
};

TEST_F(AttentionKernelsTest, MatchReferenceOnTheGrid) {
  for (const AttentionCase& c : AttentionGrid()) Check(c);
  RecordWorst();
}

TEST_F(AttentionKernelsTest, MatchReferenceOnRandomShapes) {
  for (uint32_t seed = 1; seed <= 300; ++seed) Check(RandomAttentionCase(seed));
  RecordWorst();
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
    ASSERT_TRUE(cpu::LimitIsa(cpu::SupportedIsas().front()).ok());
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

// The integer kernel is chosen as long as its packing is what counts; asked for by name it runs
// with any number of heads.
TEST_F(AttentionKernelsTest, Int8LatentsOfManyHeadsAreDecoded) {
  if (!HasVnni()) GTEST_SKIP() << "needs AVX512_VNNI and AVX512_BF16";
  constexpr int32_t kMany = 33;
  const Int8LatentLayout layout{128, 64};
  const std::vector<char> page(layout.bytes());
  const std::vector<float> q(kMany * (128 + 64));
  std::vector<float> out(kMany * 128);
  const int32_t cu_q[] = {0, 1}, kv_len = 1, page_id = 0;
  const auto chosen = [&](int32_t heads, const Context& context) -> std::string_view {
    MlaAbsorbedArgs args;
    args.q = ConstTensor(q.data(), DType::kF32, {1, heads, 128 + 64});
    args.cache = ConstTensor(page.data(), DType::kI8, {1, 1, layout.bytes()});
    args.batch = {1, cu_q, &kv_len, &page_id, 1, 1};
    args.kv_lora_rank = 128;
    args.scale = 1;
    args.out = Tensor(out.data(), DType::kF32, {1, heads, 128});
    const Result<KernelVerdicts> verdicts = ExplainMlaAbsorbed(args, context);
    EXPECT_TRUE(verdicts.ok()) << verdicts.message();
    for (const KernelVerdict& v : *verdicts) {
      if (v.refusal.empty()) return v.kernel;
    }
    return "none";
  };
  EXPECT_EQ(chosen(kMany - 1, MakeContext("", ComputeMode::kBF16)), "cpu_avx512_vnni");
  EXPECT_EQ(chosen(kMany, MakeContext("", ComputeMode::kBF16)), "cpu_avx512_bf16");
  EXPECT_EQ(chosen(kMany, MakeContext("cpu_avx512_vnni", ComputeMode::kBF16)), "cpu_avx512_vnni");
}

}  // namespace
}  // namespace mla::test
