// What a step calls around decode, at the shapes of DeepSeek-V3 (kv_lora_rank 512, rope 64, nope
// and v 128): head_linear, mla_append and the schedule.
//
//   step_bench [--matrix-peak TFLOPS]
//
// Each figure: a CUDA graph of at least 16 calls rotating over operands that together exceed 300
// MB, median of 9 replays, time per call. GB/s counts every operand once; `floor` is the share of
// the bandwidth that a read of 4 GiB reaches in this run, with --matrix-peak of what binds. A
// schedule is made over and over of the same lengths, as it is for a decode of 16 heads.
#include <cstring>
#include <numeric>
#include <random>

#include "bench.cuh"
#include "mla/cuda.h"

namespace mla {
namespace {

constexpr int64_t kRank = 512, kRope = 64, kHeadDim = 128, kPage = 64;
const Device kGpu = {DeviceType::kCuda, 0};

struct Machine {
  cudaStream_t stream = nullptr;
  double bandwidth = 0;    // bytes per second
  double matrix_peak = 0;  // FLOP/s; 0: not said
};

void Print(const char* what, int64_t tokens, int64_t heads, double us, double bytes, double flops,
           const Machine& machine) {
  double floor_us = bytes / machine.bandwidth * 1e6;
  if (machine.matrix_peak > 0) floor_us = std::max(floor_us, flops / machine.matrix_peak * 1e6);
  std::printf("| %s | %lld | %lld | %.2f | %.0f | %.1f | %.0f %% |\n", what,
              static_cast<long long>(tokens), static_cast<long long>(heads), us, bytes / us * 1e-3,
              flops / us * 1e-6, 100 * floor_us / us);
  std::fflush(stdout);
}

// `in` and `out` of a head: W_UK into the query (kHeadDim, kRank), W_UV out of the latent (turned).
void TimeHeadLinear(const char* what, int64_t tokens, int64_t heads, int64_t in, int64_t out,
                    const Machine& machine) {
  const int64_t x_size = tokens * heads * in, w_size = heads * out * in;
  const int64_t y_size = tokens * heads * out;
  const int64_t elements = x_size + w_size + y_size;
  const int64_t rotate = kRotateBytes / (2 * elements) + 1;
  auto* memory = Allocate<__nv_bfloat16>(elements * rotate);
  FillRandom<<<1024, 256>>>(memory, elements * rotate, 0.1f, 1);
  Check(cudaDeviceSynchronize(), "filling");
  cuda::CudaContext context;
  context.stream = machine.stream;
  const int64_t calls = std::max<int64_t>(16, rotate);
  const double us =
      TimeGraph(machine.stream,
                [&] {
                  for (int64_t i = 0; i < calls; ++i) {
                    __nv_bfloat16* x = memory + i % rotate * elements;
                    cuda::HeadLinearArgs args;
                    args.x = ConstTensor(x, DType::kBF16, {tokens, heads, in}, kGpu);
                    args.w = ConstTensor(x + x_size, DType::kBF16, {heads, out, in}, kGpu);
                    args.y = Tensor(x + x_size + w_size, DType::kBF16, {tokens, heads, out}, kGpu);
                    Check(cuda::HeadLinear(args, context));
                  }
                }) /
      static_cast<double>(calls);
  Check(cudaFree(memory), "free");
  Print(what, tokens, heads, us, 2.0 * static_cast<double>(elements),
        2.0 * static_cast<double>(tokens * w_size), machine);
}

void TimeAppend(const char* what, int64_t tokens, int64_t heads, bool fp8, const Machine& machine) {
  const int64_t row_bytes = fp8 ? cuda::kFp8LatentBytes : 2 * (kRank + kRope);
  const int64_t pages = 4096 * 16 / kPage + tokens / kPage;
  auto* cache = Allocate<uint8_t>(pages * kPage * row_bytes);
  const int64_t step_size = tokens * (kRank + kRope + heads * kRope);
  const int64_t rotate = kRotateBytes / (2 * step_size) + 1;
  auto* step = Allocate<__nv_bfloat16>(step_size * rotate);
  FillRandom<<<1024, 256>>>(step, step_size * rotate, 1.0f, 1);
  std::vector<int32_t> positions(tokens);
  std::vector<int64_t> slots(pages * kPage);
  std::vector<float> inv_freq(kRope / 2, 0.1f);
  std::iota(positions.begin(), positions.end(), 1000);
  std::iota(slots.begin(), slots.end(), int64_t{0});
  std::shuffle(slots.begin(), slots.end(), std::mt19937(1));
  auto* positions_memory = Allocate<int32_t>(tokens);
  auto* slots_memory = Allocate<int64_t>(tokens);
  auto* inv_freq_memory = Allocate<float>(kRope / 2);
  Check(cudaMemcpy(positions_memory, positions.data(), tokens * 4, cudaMemcpyHostToDevice), "copy");
  Check(cudaMemcpy(slots_memory, slots.data(), tokens * 8, cudaMemcpyHostToDevice), "copy");
  Check(cudaMemcpy(inv_freq_memory, inv_freq.data(), kRope * 2, cudaMemcpyHostToDevice), "copy");
  cuda::CudaContext context;
  context.stream = machine.stream;
  const int64_t calls = std::max<int64_t>(16, rotate);
  const double us =
      TimeGraph(
          machine.stream,
          [&] {
            for (int64_t i = 0; i < calls; ++i) {
              __nv_bfloat16* c_kv = step + i % rotate * step_size;
              __nv_bfloat16* k_pe = c_kv + tokens * kRank;
              cuda::MlaAppendArgs args;
              args.c_kv = ConstTensor(c_kv, DType::kBF16, {tokens, kRank}, kGpu);
              args.k_pe = ConstTensor(k_pe, DType::kBF16, {tokens, kRope}, kGpu);
              args.q_pe = Tensor(k_pe + tokens * kRope, DType::kBF16, {tokens, heads, kRope}, kGpu);
              args.positions = positions_memory;
              args.slots = slots_memory;
              args.inv_freq = inv_freq_memory;
              args.cache = fp8 ? Tensor(cache, DType::kF8E4M3, {pages, kPage, row_bytes}, kGpu)
                               : Tensor(cache, DType::kBF16, {pages, kPage, kRank + kRope}, kGpu);
              Check(cuda::MlaAppend(args, context));
            }
          }) /
      static_cast<double>(calls);
  for (void* memory :
       {static_cast<void*>(cache), static_cast<void*>(step), static_cast<void*>(positions_memory),
        static_cast<void*>(slots_memory), static_cast<void*>(inv_freq_memory)}) {
    Check(cudaFree(memory), "free");
  }
  const auto bytes = static_cast<double>(tokens * (2 * (kRank + kRope) + row_bytes + 12) +
                                         2 * 2 * tokens * heads * kRope);
  Print(what, tokens, heads, us, bytes, 0, machine);
}

// Of lengths up to max_len, all the same or spread evenly below it.
void TimeSchedule(int64_t seqs, int32_t max_len, bool same, bool invariant,
                  const Machine& machine) {
  constexpr int64_t kHeads = 16;
  std::mt19937 rng(1);
  std::vector<int32_t> lengths(seqs, max_len);
  for (int32_t& len : lengths) len -= same ? 0 : static_cast<int32_t>(rng() % max_len);
  const int64_t row = kRank + kRope;
  auto* lengths_memory = Allocate<int32_t>(seqs);
  Check(cudaMemcpy(lengths_memory, lengths.data(), seqs * 4, cudaMemcpyHostToDevice), "copy");
  auto* memory = Allocate<__nv_bfloat16>(seqs * kHeads * row);  // of tensors that nothing reads
  cuda::MlaDecodeArgs args;
  args.q = ConstTensor(memory, DType::kBF16, {seqs, 1, kHeads, row}, kGpu);
  args.cache = ConstTensor(memory, DType::kBF16, {1, kPage, row}, kGpu);
  args.kv_lens = args.page_table = lengths_memory;
  args.page_table_stride = max_len / kPage;
  args.kv_lora_rank = static_cast<int32_t>(kRank);
  args.scale = 1;
  args.out = Tensor(memory, DType::kBF16, {seqs, 1, kHeads, kRank}, kGpu);
  cuda::CudaContext context;
  context.stream = machine.stream;
  context.batch_invariant = invariant;
  const auto sizes = cuda::MlaDecodeMemory(args, context);
  if (!sizes.ok()) Check(Status(sizes.error()));
  auto* schedule = Allocate<uint8_t>(static_cast<int64_t>(sizes->schedule_bytes));
  args.schedule = schedule;
  args.workspace = memory;
  constexpr int kCalls = 16;
  const double us = TimeGraph(machine.stream, [&] {
    for (int i = 0; i < kCalls; ++i) Check(cuda::MlaDecodeSchedule(args, context));
  });
  for (void* m : {static_cast<void*>(lengths_memory), static_cast<void*>(memory),
                  static_cast<void*>(schedule)}) {
    Check(cudaFree(m), "free");
  }
  std::printf("| %lld | %d | %s | %s | %.2f |\n", static_cast<long long>(seqs), max_len,
              same ? "same" : "spread", invariant ? "batch-invariant" : "free", us / kCalls);
  std::fflush(stdout);
}

void TimeSchedules(const Machine& machine) {
  std::printf("\n| sequences | longest | lengths | cuts | us |\n|--:|--:|---|---|--:|\n");
  for (const int64_t seqs : {1, 16, 64, 128, 256, 1024, 4096}) {
    TimeSchedule(seqs, 8192, true, false, machine);
    TimeSchedule(seqs, 16384, false, false, machine);
    TimeSchedule(seqs, 16384, false, true, machine);
  }
}

int Main(int argc, char** argv) {
  Machine machine;
  if (argc == 3 && std::strcmp(argv[1], "--matrix-peak") == 0) {
    machine.matrix_peak = std::atof(argv[2]) * 1e12;
  } else if (argc != 1) {
    std::fprintf(stderr, "usage: step_bench [--matrix-peak TFLOPS]\n");
    return 1;
  }
  const auto devices = cuda::Devices();
  if (!devices.ok()) Check(Status(devices.error()));
  Check(cudaStreamCreateWithFlags(&machine.stream, cudaStreamNonBlocking), "stream");
  machine.bandwidth = ReadBandwidth((*devices)[0].num_sms, machine.stream);
  std::printf("%s, read bandwidth %.0f GB/s\n", (*devices)[0].name.c_str(),
              machine.bandwidth * 1e-9);
  std::printf("| operator | tokens | heads | us | GB/s | TFLOP/s | floor |\n");
  std::printf("|---|--:|--:|--:|--:|--:|--:|\n");
  for (const int64_t heads : {16, 128}) {
    for (const int64_t tokens : {1, 16, 128, 1024}) {
      TimeHeadLinear("head_linear, W_UK", tokens, heads, kHeadDim, kRank, machine);
      TimeHeadLinear("head_linear, W_UV", tokens, heads, kRank, kHeadDim, machine);
      TimeAppend("mla_append, bf16", tokens, heads, false, machine);
      TimeAppend("mla_append, FP8", tokens, heads, true, machine);
    }
  }
  TimeSchedules(machine);
  return 0;
}

}  // namespace
}  // namespace mla

int main(int argc, char** argv) { return mla::Main(argc, argv); }
