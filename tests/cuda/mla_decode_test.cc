// mla_decode on the device: every kernel against the fp64 reference.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cuda/decode_case.h"
#include "mla/cuda.h"

namespace mla::test {
namespace {

using cuda::CudaContext;

// Names of the kernels, best first for many rows; MLA_TEST_KERNEL leaves one of them.
constexpr const char* kKernels[] = {"sm90",     "sm90_fp8", "sm90_fp8_direct",
                                    "sm80_fp8", "sm80",     "plain"};

std::vector<std::string> Kernels() {
  const char* only = std::getenv("MLA_TEST_KERNEL");
  if (only != nullptr) return {only};
  return {std::begin(kKernels), std::end(kKernels)};
}

// Of a cache of FP8 latents.
bool IsFp8(const std::string& kernel) { return kernel.find("_fp8") != std::string::npos; }
int DenseKernels() {
  int count = 0;
  for (const std::string& kernel : Kernels()) count += IsFp8(kernel) ? 0 : 1;
  return count;
}

bool IsHopper() {
  const auto devices = cuda::Devices();
  return devices.ok() && !devices->empty() && (*devices)[0].compute_capability / 10 == 9;
}

// Those that take a cache of FP8 latents; sm90_fp8 does not take every case.
int Fp8Kernels(const DecodeCase& c) {
  const bool converted = c.dtype == DType::kBF16 && c.page_size % 16 == 0;
  int count = 0;
  for (const std::string& kernel : Kernels()) {
    if (kernel == "plain" || kernel == "sm80_fp8") ++count;
    if (kernel == "sm90_fp8" && IsHopper() && converted) ++count;
    if (kernel == "sm90_fp8_direct" && IsHopper()) ++count;
  }
  return count;
}

class MlaDecodeOnDevice : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto devices = cuda::Devices();
    if (!devices.ok()) GTEST_SKIP() << "no CUDA device: " << devices.message();
  }
};

bool Refuses(const DecodeMemory& memory, const std::string& kernel) {
  CudaContext context;
  context.kernel = kernel;
  const auto sizes = cuda::MlaDecodeMemory(memory.args(), context);
  return !sizes.ok() && sizes.error().code == ErrorCode::kUnsupported;
}

// Runs every kernel that takes the case; the number that did.
int ExpectMatchesReference(const DecodeCase& c, const std::vector<std::string>& kernels) {
  DecodeMemory memory(c);
  const DecodeResult want = DecodeReference(c);
  int ran = 0;
  for (const std::string& kernel : kernels) {
    if (Refuses(memory, kernel)) continue;
    for (const bool invariant : {false, true}) {
      CudaContext context;
      context.kernel = kernel;
      context.batch_invariant = invariant;
      const Status status = memory.Run(context);
      EXPECT_TRUE(status.ok()) << kernel << ": " << c << ": " << status.message();
      if (!status.ok()) return ran;
      const std::string worst = CompareDecode(c, memory.Results(), want);
      EXPECT_EQ(worst, "") << kernel << (invariant ? ", batch invariant" : "");
    }
    ++ran;
  }
  return ran;
}

struct Dims {
  int32_t d_k, d_v;
};
constexpr Dims kDims[] = {{576, 512}, {512, 512}, {320, 256}, {288, 256}};

DecodeCase Case(int32_t heads, int32_t s_q, Dims dims, int32_t page, std::vector<int32_t> kv_lens,
                DType dtype = DType::kBF16) {
  DecodeCase c;
  c.heads = heads;
  c.s_q = s_q;
  c.d_k = dims.d_k;
  c.d_v = dims.d_v;
  c.page_size = page;
  c.kv_lens = std::move(kv_lens);
  c.dtype = dtype;
  return c;
}

std::vector<DecodeCase> Grid() {
  std::vector<DecodeCase> grid;
  for (const Dims dims : kDims) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      grid.push_back(Case(16, 1, dims, 64, {1, 63, 64, 65, 0, 300, 2}, dtype));
      grid.push_back(Case(128, 1, dims, 64, {1000, 129}, dtype));
      grid.push_back(Case(20, 2, dims, 16, {127, 1, 0}, dtype));
      grid.push_back(Case(5, 4, dims, 256, {255, 257, 2}, dtype));  // s_q > kv_len
    }
  }
  for (const int32_t heads : {1, 2, 3, 8, 12, 40, 64, 96, 130}) {
    grid.push_back(Case(heads, 1, kDims[0], 64, {200, 5000}));
  }
  for (const int32_t page : {1, 2, 3, 7, 16, 32, 48, 63, 65, 96, 100, 128, 192, 256}) {
    grid.push_back(Case(16, 1, kDims[0], page, {1, 63, 257, 1000}));
  }
  for (int32_t s_q = 1; s_q <= 8; ++s_q) grid.push_back(Case(16, s_q, kDims[0], 64, {3, 500}));
  DecodeCase full = Case(16, 3, kDims[0], 64, {1, 500, 0});
  full.causal = false;
  grid.push_back(full);
  for (const Dims dims : kDims) {
    DecodeCase strided = Case(24, 2, dims, 64, {100, 700, 1});
    strided.strided = true;
    grid.push_back(strided);
  }
  DecodeCase no_lse = Case(16, 1, kDims[0], 64, {100, 3000});
  no_lse.with_lse = false;
  grid.push_back(no_lse);
  grid.push_back(Case(16, 1, kDims[0], 64, {30000}));
  grid.push_back(Case(128, 2, kDims[0], 64, {20000, 1, 77}));
  grid.push_back(Case(16, 1, kDims[0], 64, std::vector<int32_t>(600, 70)));
  // Parts that hold long pieces of several sequences.
  std::vector<int32_t> many(60);
  for (int32_t i = 0; i < 60; ++i) many[i] = 4000 + 613 * i % 4099;
  grid.push_back(Case(8, 1, kDims[0], 64, many));
  grid.push_back(Case(128, 2, kDims[0], 64, std::vector<int32_t>(40, 1500)));
  return grid;
}

TEST_F(MlaDecodeOnDevice, EveryKernelMatchesTheReference) {
  for (const DecodeCase& c : Grid()) {
    EXPECT_EQ(ExpectMatchesReference(c, Kernels()), DenseKernels()) << c;
    if (HasFailure()) return;
  }
}

// The greatest score grows so much in the course of a sequence that what was summed up before has
// to be rescaled, which kernels put off as long as they can.
TEST_F(MlaDecodeOnDevice, SharpScores) {
  std::vector<DecodeCase> cases;
  for (const int32_t heads : {16, 40, 128}) {
    for (const Dims dims : kDims) {
      for (const DType dtype : {DType::kBF16, DType::kF16}) {
        cases.push_back(Case(heads, 1, dims, 64, {5000, 300}, dtype));
      }
    }
    cases.push_back(Case(heads, 2, kDims[0], 64, {5000, 300}));
    cases.back().fp8 = true;
    cases.back().scales = Fp8Scales::kPowers;  // others round keys, which sharp scores magnify
  }
  for (DecodeCase& c : cases) {
    c.sharpness = 100;  // queries are normal, keys a tenth of that
    EXPECT_EQ(ExpectMatchesReference(c, Kernels()), c.fp8 ? Fp8Kernels(c) : DenseKernels()) << c;
  }
}

TEST_F(MlaDecodeOnDevice, OddDimensionsFallToThePlainKernel) {
  for (const Dims dims : {Dims{80, 64}, Dims{65, 33}, Dims{7, 7}, Dims{576, 500}}) {
    const DecodeCase c = Case(3, 2, dims, 5, {0, 1, 30, 700});
    EXPECT_EQ(ExpectMatchesReference(c, {"sm90", "sm80", "plain"}), 1) << c;
  }
}

TEST_F(MlaDecodeOnDevice, Fp8Latents) {
  std::vector<DecodeCase> cases = {
      Case(16, 1, kDims[0], 64, {1, 63, 64, 65, 0, 300, 2}),
      Case(128, 1, kDims[0], 64, {1000, 129}),
      Case(20, 2, kDims[0], 16, {127, 1, 0}),
      Case(3, 4, kDims[0], 1, {255, 257, 2}),
      Case(8, 1, kDims[0], 256, {30000}),
      Case(64, 3, kDims[0], 64, {5000, 3}, DType::kF16),
      Case(40, 2, kDims[0], 100, {700, 90}),
  };
  cases.back().strided = true;
  for (const Fp8Scales scales : {Fp8Scales::kAny, Fp8Scales::kPowers, Fp8Scales::kWild}) {
    for (DecodeCase& c : cases) {
      c.fp8 = true;
      c.scales = scales;
      EXPECT_EQ(ExpectMatchesReference(c, Kernels()), Fp8Kernels(c)) << c;
    }
  }
}

TEST_F(MlaDecodeOnDevice, RandomFp8Latents) {
  const char* count = std::getenv("MLA_RANDOM_CASES");
  std::mt19937 rng(20240502);
  const auto pick = [&rng](int32_t low, int32_t high) {
    return low + static_cast<int32_t>(rng() % static_cast<uint32_t>(high - low + 1));
  };
  for (int i = 0; i < (count != nullptr ? std::atoi(count) : 60); ++i) {
    DecodeCase c = Case(pick(1, rng() % 2 == 0 ? 16 : 140), pick(1, 5), kDims[0],
                        rng() % 2 == 0 ? 16 * pick(1, 16) : pick(1, 256), {});
    c.kv_lens.resize(pick(1, 9));
    for (int32_t& len : c.kv_lens) len = pick(0, pick(1, 3) == 1 ? 3000 : 300);
    c.fp8 = true;
    c.scales = static_cast<Fp8Scales>(pick(0, 2));
    c.dtype = rng() % 4 == 0 ? DType::kF16 : DType::kBF16;
    c.causal = rng() % 4 != 0;
    c.strided = rng() % 3 == 0;
    c.seed = rng();
    EXPECT_EQ(ExpectMatchesReference(c, Kernels()), Fp8Kernels(c)) << c;
    if (HasFailure()) FAIL() << "random case " << i;
  }
}

TEST_F(MlaDecodeOnDevice, RandomShapes) {
  const char* count = std::getenv("MLA_RANDOM_CASES");
  std::mt19937 rng(20240501);
  const auto pick = [&rng](int32_t low, int32_t high) {
    return low + static_cast<int32_t>(rng() % static_cast<uint32_t>(high - low + 1));
  };
  for (int i = 0; i < (count != nullptr ? std::atoi(count) : 40); ++i) {
    DecodeCase c = Case(rng() % 2 == 0 ? 8 << pick(0, 4) : pick(1, 140), pick(1, 5),
                        kDims[rng() % 4], rng() % 2 == 0 ? 64 : pick(1, 256), {});
    const int32_t most = pick(1, 3) == 1 ? 3000 : 300;
    c.kv_lens.resize(pick(1, 9));
    for (int32_t& len : c.kv_lens) len = pick(0, most);
    c.dtype = rng() % 2 == 0 ? DType::kBF16 : DType::kF16;
    c.causal = rng() % 4 != 0;
    c.strided = rng() % 3 == 0;
    c.seed = rng();
    ExpectMatchesReference(c, Kernels());
    if (HasFailure()) FAIL() << "random case " << i;
  }
}

// Rows with a NaN in q or a key are NaN, whole and lse; the others have their bits.
TEST_F(MlaDecodeOnDevice, NaNsAreNotLost) {
  for (const std::string& kernel : Kernels()) {
    for (const int32_t heads : {16, 128}) {
      for (const int32_t kv_len : {1, 200, 20000}) {  // the last in parts that are merged
        DecodeCase c = Case(heads, 1, kDims[0], 64, {300, kv_len, 77});
        c.fp8 = IsFp8(kernel);
        CudaContext context;
        context.kernel = kernel;
        DecodeMemory memory(c), query(c), key(c);
        if (Refuses(memory, kernel)) continue;
        query.SetQueryToNaN(1);
        key.SetKeyToNaN(1);
        ASSERT_TRUE(memory.Run(context).ok());
        ASSERT_TRUE(query.Run(context).ok());
        ASSERT_TRUE(key.Run(context).ok());
        const DecodeResult want = memory.Results();
        const auto expect_nans = [&](const DecodeResult& got, int64_t rows) {
          int64_t wrong = 0;
          for (int64_t row = 0; row < std::ssize(want.lse); ++row) {
            const bool is_nan = row >= heads && row < heads + rows;
            const auto right = [&](double g, double w) { return is_nan ? std::isnan(g) : g == w; };
            wrong += !right(got.lse[row], want.lse[row]);
            for (int64_t i = row * c.d_v; i < (row + 1) * c.d_v; ++i) {
              wrong += !right(got.out[i], want.out[i]);
            }
          }
          EXPECT_EQ(wrong, 0) << kernel << ", " << rows << " rows of " << c;
        };
        expect_nans(query.Results(), 1);
        expect_nans(key.Results(), heads);
      }
    }
  }
}

// Calls test(memory, context, results of a run) for each kernel, over sequences that are split:
// with few query rows, for which kernels may merge in another way, and with a tile of 64.
template <typename Test>
void ForEachSplitBatch(Test&& test) {
  for (const std::string& kernel : Kernels()) {
    for (const auto& [heads, s_q] : std::vector<std::pair<int32_t, int32_t>>{{16, 1}, {32, 2}}) {
      SCOPED_TRACE(kernel + ", " + std::to_string(heads * s_q) + " rows");
      DecodeCase c = Case(heads, s_q, kDims[0], 64, {5000, 100, 900, 20000});
      c.fp8 = IsFp8(kernel);
      DecodeMemory memory(c);
      if (Refuses(memory, kernel)) continue;
      CudaContext context;
      context.kernel = kernel;
      ASSERT_TRUE(memory.Run(context).ok());
      const DecodeResult first = memory.Results();
      EXPECT_EQ(CompareDecode(c, first, DecodeReference(c)), "");
      test(memory, context, first);
    }
  }
}

void ExpectSameBits(const DecodeMemory& memory, const DecodeResult& first) {
  const DecodeResult again = memory.Results();
  EXPECT_EQ(again.out, first.out);
  EXPECT_EQ(again.lse, first.lse);
}

TEST_F(MlaDecodeOnDevice, SameBitsEveryRun) {
  ForEachSplitBatch([](DecodeMemory& memory, const CudaContext& context, const auto& first) {
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(memory.Run(context).ok());
      ExpectSameBits(memory, first);
    }
  });
}

// Other work holds some multiprocessors back: thread blocks then begin when others have ended, and
// those that merge cannot wait for each other. Call after call with one schedule.
TEST_F(MlaDecodeOnDevice, SameBitsWhereThreadBlocksBeginLate) {
  const int32_t sms = (*cuda::Devices())[0].num_sms;
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ForEachSplitBatch([&](DecodeMemory& memory, CudaContext context, const auto& first) {
    context.stream = stream;
    for (const int32_t busy : {1, 0, sms / 3, sms - 1, 0, 2, std::max(sms - 7, 0)}) {
      SCOPED_TRACE(std::to_string(busy) + " multiprocessors busy");
      memory.PoisonOutputs();
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      {
        const BusyDevice other(busy, 3);
        ASSERT_TRUE(cuda::MlaDecode(memory.args(), context).ok());
      }
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      ExpectSameBits(memory, first);
    }
  });
  cudaStreamDestroy(stream);
}

// That the one sequence of `alone` has the same bits as the first of `together`.
void ExpectFirstIsAsAlone(DecodeMemory& alone, DecodeMemory& together, const CudaContext& context) {
  ASSERT_TRUE(alone.Run(context).ok());
  ASSERT_TRUE(together.Run(context).ok());
  const DecodeResult a = alone.Results();
  DecodeResult b = together.Results();
  b.out.resize(a.out.size());
  b.lse.resize(a.lse.size());
  EXPECT_EQ(a.out, b.out) << context.kernel;
  EXPECT_EQ(a.lse, b.lse) << context.kernel;
}

TEST_F(MlaDecodeOnDevice, BatchInvariantResultsDoNotDependOnTheBatch) {
  for (const std::string& kernel : Kernels()) {
    DecodeCase alone = Case(16, 2, kDims[0], 64, {5000});
    alone.fp8 = IsFp8(kernel);
    DecodeCase together = alone;
    together.kv_lens = {5000, 100, 0, 9000, 700};
    DecodeMemory one(alone), many(together);
    if (Refuses(one, kernel)) continue;
    CudaContext context;
    context.kernel = kernel;
    context.batch_invariant = true;
    ExpectFirstIsAsAlone(one, many, context);
  }
}

// Nor does the kernel that is chosen, where which is fastest depends on the batch.
TEST_F(MlaDecodeOnDevice, BatchInvariantChoiceDoesNotDependOnTheBatch) {
  for (const bool fp8 : {false, true}) {
    DecodeCase alone = Case(16, 1, kDims[0], 64, {700});
    alone.fp8 = fp8;
    DecodeCase together = alone;
    together.kv_lens.resize(17, 90);
    DecodeMemory one(alone), many(together);
    CudaContext context;
    context.batch_invariant = true;
    ExpectFirstIsAsAlone(one, many, context);
  }
}

// A captured graph, replayed with other lengths at the same addresses.
TEST_F(MlaDecodeOnDevice, GraphReplaysWithNewLengths) {
  for (const std::string& kernel : Kernels()) {
    DecodeCase c = Case(16, 1, kDims[0], 64, {4000, 64, 900});
    c.fp8 = IsFp8(kernel);
    DecodeMemory memory(c);
    if (Refuses(memory, kernel)) continue;
    cudaStream_t stream;
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    CudaContext context;
    context.kernel = kernel;
    context.stream = stream;
    ASSERT_TRUE(memory.Allocate(context).ok());
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_TRUE(cuda::MlaDecodeSchedule(memory.args(), context).ok());
    EXPECT_TRUE(cuda::MlaDecode(memory.args(), context).ok());
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    for (const std::vector<int32_t>& lengths :
         {std::vector<int32_t>{4000, 64, 900}, {1, 0, 900}, {3999, 63, 1}, {0, 0, 0}}) {
      memory.SetLengths(lengths);
      memory.PoisonOutputs();
      ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      c.kv_lens = lengths;
      EXPECT_EQ(CompareDecode(c, memory.Results(), DecodeReference(c)), "") << kernel;
    }
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
}

// Lengths past what a row of the page table holds are cut to it: the result is that of a full row.
TEST_F(MlaDecodeOnDevice, LengthsPastThePageTableAreCut) {
  for (const std::string& kernel : Kernels()) {
    for (const int32_t page : {64, 20}) {
      DecodeCase full = Case(16, 2, kDims[0], page, {30 * page});
      full.fp8 = IsFp8(kernel);
      DecodeMemory memory(full);
      if (Refuses(memory, kernel)) continue;
      const DecodeResult want = DecodeReference(full);
      memory.SetPagesPerRow(30);
      for (const int32_t length : {30 * page + 1, 1 << 30, INT32_MAX}) {
        memory.SetLengths({length});
        CudaContext context;
        context.kernel = kernel;
        const Status status = memory.Run(context);
        ASSERT_TRUE(status.ok()) << kernel << ": " << status.message();
        EXPECT_EQ(CompareDecode(full, memory.Results(), want), "") << kernel << ", " << length;
      }
    }
  }
}

TEST_F(MlaDecodeOnDevice, CacheOverFourGiB) {
  DecodeCase c = Case(16, 1, kDims[0], 64, {500, 3000});
  c.spare_pages = 70000;  // of 73,728 bytes: 5.2 GB, the used ones scattered over it
  EXPECT_EQ(ExpectMatchesReference(c, Kernels()), DenseKernels());
}

TEST_F(MlaDecodeOnDevice, EmptyBatch) {
  DecodeMemory memory(Case(16, 1, kDims[0], 64, {}));
  EXPECT_TRUE(memory.Run({}).ok());
}

TEST_F(MlaDecodeOnDevice, ExplainsItsChoice) {
  const DecodeMemory memory(Case(16, 1, kDims[0], 64, {10}));
  const auto verdicts = cuda::ExplainMlaDecode(memory.args(), {});
  ASSERT_TRUE(verdicts.ok()) << verdicts.message();
  ASSERT_EQ(verdicts->size(), std::size(kKernels));
  EXPECT_EQ(verdicts->back().refusal, "");
  CudaContext context;
  context.kernel = "nothing";
  EXPECT_EQ(cuda::MlaDecodeMemory(memory.args(), context).message(),
            "mla_decode: no kernel is called nothing, want one of sm90, sm90_fp8_direct, sm90_fp8, "
            "sm80_fp8, sm80, plain");
}

TEST_F(MlaDecodeOnDevice, FewRowsOfFp8LatentsHaveTheirOwnKernel) {
  if (!IsHopper()) GTEST_SKIP() << "the device has one kernel for them";
  const auto chosen = [](int32_t seqs, int32_t heads, int32_t page_size) {
    DecodeCase c = Case(heads, 1, kDims[0], page_size, std::vector<int32_t>(seqs, 10));
    c.fp8 = true;
    const auto verdicts = cuda::ExplainMlaDecode(DecodeMemory(c).args(), {});
    if (!verdicts.ok()) return std::string(verdicts.message());
    for (const auto& verdict : *verdicts) {
      if (verdict.refusal.empty()) return std::string(verdict.kernel);
    }
    return std::string("none");
  };
  EXPECT_EQ(chosen(16, 16, 64), "sm90_fp8_direct");
  EXPECT_EQ(chosen(1, 32, 60), "sm90_fp8_direct");
  EXPECT_EQ(chosen(64, 128, 64), "sm90_fp8");
  EXPECT_EQ(chosen(64, 128, 60), "sm90_fp8_direct");
}

// Arguments that the host can refuse.
TEST_F(MlaDecodeOnDevice, BadArgumentsAreNamed) {
  DecodeMemory memory(Case(16, 1, kDims[0], 64, {10}));
  ASSERT_TRUE(memory.Run({}).ok());
  const auto message = [&memory](auto change) {
    cuda::MlaDecodeArgs args = memory.args();
    change(args);
    return std::string(cuda::MlaDecode(args, {}).message());
  };
  EXPECT_EQ(message([](auto& a) { a.scale = 0; }),
            "mla_decode: scale is 0, want a finite number > 0");
  EXPECT_EQ(message([](auto& a) { a.kv_lora_rank = 577; }),
            "mla_decode: kv_lora_rank is 577, want 1 to 576, the last extent of q");
  EXPECT_EQ(message([](auto& a) { a.schedule = nullptr; }), "mla_decode: schedule is null");
  EXPECT_EQ(message([](auto& a) { a.kv_lens = nullptr; }),
            "mla_decode: kv_lens or page_table is null");
  EXPECT_NE(message([](auto& a) {
              a.workspace = static_cast<char*>(a.workspace) + 4;
            }).find("want a multiple of 256 bytes"),
            std::string::npos);
  EXPECT_NE(message([](auto& a) {
              a.q = ConstTensor(a.q.data(), DType::kBF16, {1, 1, 16, 576});
            }).find("is on the CPU"),
            std::string::npos);
}

}  // namespace
}  // namespace mla::test
