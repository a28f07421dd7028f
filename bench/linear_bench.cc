// Matrix products of the models against what this machine can do, as a table.
//
//   linear_bench [--only TEXT] [--types LIST] [--threads N] [--seconds S]
//
// --only: rows of the table whose name holds TEXT ("decode", "prefill 512", "experts").
// --types: of weights, by name (default bf16,f8_e4m3,q8_0,q4_0,q4_K,q6_K). --threads: up to so many
// (default 2). --seconds: spent on each row of the table (default 0.4). MLA_ISA=avx2 and the like
// limit the kernels; f32 arithmetic is used where there is no AVX512_BF16.
//
// Each row is timed in turns with its floor, the longer of two: reading the same weights from the
// same memory with as many threads, doing nothing else; and the multiplications at the rate of a
// loop in registers: of vdpbf16ps, with AMX of tdpbf16ps (half of it for quantised weights, which
// are multiplied twice, and only with so many rows that tiles are used), without either of fp32
// FMA. `share` is the median of floor over time of those pairs; GB/s (of weights) and GFLOP/s are
// of the fastest run, since other programs can only make one slower. `2nd` is the speed over that
// with one thread.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "ceilings/loops.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "mla/linear.h"
#include "tensor/quant_blocks.h"

namespace mla {
namespace {

constexpr DType kTypes[] = {DType::kBF16, DType::kF8E4M3, DType::kQ8_0, DType::kQ4_0,
                            DType::kQ5_0, DType::kQ4_K,   DType::kQ5_K, DType::kQ6_K};

struct Options {
  std::string only, types = "bf16,f8_e4m3,q8_0,q4_0,q4_K,q6_K";
  int threads = std::min(2, UsableCpus());
  double seconds = 0.4;
};

enum class Kind { kLinear, kHeads, kHeadsOutUnit, kExperts };

// kHeads: `count` heads of [out, in]. kExperts: gate and up of `count` experts, of which each row
// of x meets `top_k`; rows fall on them at random, so some have twice as many as others.
struct Case {
  const char* name;
  Kind kind;
  int64_t rows, in, out;
  int64_t count = 1, top_k = 1;
  bool from_memory = true;  // weights larger than the caches

  int64_t weights() const { return in * out * count * (kind == Kind::kExperts ? 2 : 1); }
  // That multiply a matrix, in the mean.
  int64_t rows_of_matrix() const {
    return kind == Kind::kExperts ? rows * top_k / std::min(count, rows * top_k) : rows;
  }
  double flops() const {
    const auto per_row = static_cast<double>(in * out);
    if (kind == Kind::kExperts) return 4 * per_row * static_cast<double>(rows * top_k);
    return 2 * per_row * static_cast<double>(rows * count);
  }
};

constexpr Case kCases[] = {
    {"decode, V2-Lite dense MLP 2048 -> 10944", Kind::kLinear, 1, 2048, 10944},
    {"decode, V3 q_a 7168 -> 1536", Kind::kLinear, 1, 7168, 1536},
    {"decode of 2, 2048 -> 10944", Kind::kLinear, 2, 2048, 10944},
    {"decode of 4, 2048 -> 10944", Kind::kLinear, 4, 2048, 10944},
    {"decode of 8, 2048 -> 10944", Kind::kLinear, 8, 2048, 10944},
    {"decode, 6 of 64 experts 2048 -> 1408", Kind::kExperts, 1, 2048, 1408, 64, 6},
    {"decode from cache, 2048 -> 128", Kind::kLinear, 1, 2048, 128, 1, 1, false},
    {"decode, bundled model 256 -> 768", Kind::kLinear, 1, 256, 768, 1, 1, false},
    {"prefill 512, 2048 -> 10944", Kind::kLinear, 512, 2048, 10944},
    {"prefill 512, 1024 -> 4096", Kind::kLinear, 512, 1024, 4096},
    {"prefill 512, 7168 -> 1536", Kind::kLinear, 512, 7168, 1536},
    {"prefill 512, 512 -> 4096", Kind::kLinear, 512, 512, 4096},
    {"prefill 64, 2048 -> 1408", Kind::kLinear, 64, 2048, 1408},
    {"prefill 512, 6 of 64 experts 2048 -> 1408", Kind::kExperts, 512, 2048, 1408, 64, 6},
    {"prefill 512, bundled model 256 -> 768", Kind::kLinear, 512, 256, 768, 1, 1, false},
    {"prefill 512, W_UK absorbed, 16 heads 128 -> 512", Kind::kHeadsOutUnit, 512, 128, 512, 16},
    {"prefill 512, W_UV, 16 heads 512 -> 128", Kind::kHeads, 512, 512, 128, 16},
    {"decode, W_UK absorbed, 128 heads 128 -> 512", Kind::kHeadsOutUnit, 1, 128, 512, 128},
    {"decode, W_UV, 128 heads 512 -> 128", Kind::kHeads, 1, 512, 128, 128},
};

double Seconds(const auto& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + std::ssize(v) / 2, v.end());
  return v[v.size() / 2];
}

std::vector<float> Normal(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

// Random weights, several copies where they are to come from memory. Rows repeat after a while:
// what they hold does not matter for speed.
class Weights {
 public:
  static constexpr int64_t kColdBytes = int64_t{256} << 20;
  static constexpr int64_t kReadUnit = 8 << 10;

  Weights(const Case& c, DType dtype) : dtype_(dtype), elements_(c.weights()) {
    bytes_ = RowBytes(dtype, elements_);
    copies_ = c.from_memory ? std::max<int64_t>(1, kColdBytes / bytes_) : 1;
    memory_.resize(copies_ * bytes_ + 2 * kReadUnit);
    const int64_t repeat = std::min<int64_t>(elements_, 16 * c.in);
    const int64_t repeat_bytes = RowBytes(dtype, repeat);
    std::vector<char> rows(repeat_bytes);
    QuantiseRow(dtype, Normal(repeat, 1).data(), repeat, rows.data());
    for (int64_t at = 0; at < copies_ * bytes_; at += repeat_bytes) {
      std::memcpy(begin() + at, rows.data(), std::min(repeat_bytes, copies_ * bytes_ - at));
    }
    scales_.assign((elements_ / c.in / 128 + 1) * (c.in / 128 + 1), 0.01F);
    scale_stride_ = c.in / 128 + 1;
  }

  int64_t bytes() const { return bytes_; }
  int64_t copies() const { return copies_; }
  const char* Copy(int64_t i) const { return begin() + i % copies_ * bytes_; }

  // [out, in] from element `first` of a copy on.
  ConstTensor Matrix(int64_t copy, int64_t first, int64_t out, int64_t in) const {
    const ConstTensor w(Copy(copy) + RowBytes(dtype_, first), dtype_, {out, in});
    if (dtype_ != DType::kF8E4M3) return w;
    return w.WithScales({.data = scales_.data(), .stride = scale_stride_});
  }

 private:
  char* begin() const {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return const_cast<char*>(memory_.data()) + (kReadUnit - address % kReadUnit);
  }

  DType dtype_;
  int64_t elements_, bytes_ = 0, copies_ = 1, scale_stride_ = 1;
  std::vector<char> memory_;
  std::vector<float> scales_;
};

// One case with weights of one type.
class Call {
 public:
  Call(const Case& c, DType dtype, const Weights& weights) : case_(c), dtype_(dtype), w_(weights) {
    const int64_t matrices = c.kind == Kind::kLinear ? 1 : c.kind == Kind::kExperts ? 2 : c.count;
    rows_ = c.kind == Kind::kExperts ? c.rows * c.top_k : c.rows;
    x_ = Normal(rows_ * c.in * (c.kind == Kind::kExperts ? 1 : matrices), 2);
    y_.resize(rows_ * c.out * matrices + kAlignment);
    std::vector<int32_t> counts(c.count);
    std::mt19937 random(1);
    for (int64_t row = 0; row < c.rows; ++row) {  // top_k different experts
      const auto first = static_cast<int64_t>(random() % c.count);
      for (int64_t k = 0; k < c.top_k; ++k) ++counts[(first + k * (1 + row % 7)) % c.count];
    }
    offsets_.assign(c.count + 1, 0);
    for (int64_t e = 0; e < c.count; ++e) {
      offsets_[e + 1] = offsets_[e] + counts[e];
      used_experts_ += counts[e] != 0;
    }
  }

  // Bytes of weights that a call reads.
  int64_t bytes() const {
    return case_.kind == Kind::kExperts ? w_.bytes() / case_.count * used_experts_ : w_.bytes();
  }

  Status Run(int64_t turn, const Context& context) {
    const Case& c = case_;
    switch (c.kind) {
      case Kind::kLinear: {
        const LinearTarget target{w_.Matrix(turn, 0, c.out, c.in), {}, Y(0)};
        return Linear({.x = {x_.data(), DType::kF32, {rows_, c.in}}, .targets = {&target, 1}},
                      context);
      }
      case Kind::kExperts: {
        std::vector<ConstTensor> gate, up;
        for (int64_t e = 0; e < c.count; ++e) {
          gate.push_back(w_.Matrix(turn, e * c.in * c.out, c.out, c.in));
          up.push_back(w_.Matrix(turn, (c.count + e) * c.in * c.out, c.out, c.in));
        }
        const GroupedTarget targets[] = {{gate, Y(0)}, {up, Y(1)}};
        return GroupedLinear(
            {.x = {x_.data(), DType::kF32, {rows_, c.in}}, .offsets = offsets_, .targets = targets},
            context);
      }
      case Kind::kHeads:
      case Kind::kHeadsOutUnit: break;
    }
    const bool out_unit = c.kind == Kind::kHeadsOutUnit;
    const ConstTensor w(w_.Copy(turn), dtype_, {c.count, c.out, c.in},
                        {c.in * c.out, out_unit ? 1 : c.in, out_unit ? c.out : 1});
    return HeadLinear({.x = {x_.data(), DType::kF32, {rows_, c.count, c.in}},
                       .w = w,
                       .y = {y(), DType::kF32, {rows_, c.count, c.out}}},
                      context);
  }

 private:
  static constexpr int64_t kAlignment = 16;  // floats: of a model's activations

  float* y() {
    const auto line = reinterpret_cast<uintptr_t>(y_.data()) / sizeof(float);
    return y_.data() + (kAlignment - line % kAlignment) % kAlignment;
  }
  Tensor Y(int64_t i) { return {y() + i * rows_ * case_.out, DType::kF32, {rows_, case_.out}}; }

  const Case case_;
  const DType dtype_;
  const Weights& w_;
  int64_t rows_ = 0, used_experts_ = 0;
  std::vector<float> x_, y_;
  std::vector<int32_t> offsets_;
};

// Seconds to read `bytes` from `data` on.
double ReadSeconds(const char* data, int64_t bytes, int streams, ThreadPool& pool) {
  const int64_t tasks = pool.num_threads() == 1 ? 1 : 8 * pool.num_threads();
  const int64_t unit = Weights::kReadUnit;
  const char* begin = data - reinterpret_cast<uintptr_t>(data) % unit;
  const int64_t units = CeilDiv(bytes, unit);
  return Seconds([&] {
    pool.ParallelFor(tasks, [&](int64_t task, int) {
      const int64_t from = units * task / tasks, to = units * (task + 1) / tasks;
      volatile uint64_t keep = ReadStreams(begin + from * unit, (to - from) * unit, streams);
      (void)keep;
    });
  });
}

// The rate of multiply-adds in registers, in FLOP/s: of the best instruction in use.
double ArithmeticRate(const Case& c, DType weights, ThreadPool& pool) {
  static const std::vector<ArithmeticLoop> loops = ArithmeticLoops();
  const bool quantised = IsQuantised(weights);
  const bool tiles = cpu::UsesAmxBf16() && c.rows_of_matrix() >= cpu::AmxFewestRows(weights);
  const ArithmeticLoop* loop = &loops[0];
  for (const ArithmeticLoop& l : loops) {
    const std::string_view name = l.name;
    if (cpu::UsesAvx512Bf16() && name == "vdpbf16ps") loop = &l;
    if (tiles && name == "tdpbf16ps") loop = &l;
  }
  constexpr int64_t kTurns = 100000;
  std::vector<double> done(pool.num_threads());
  const double seconds = Seconds([&] {
    pool.ParallelFor(pool.num_threads(), [&](int64_t t, int) { done[t] = loop->run(kTurns); });
  });
  double all = 0;
  for (const double d : done) all += d;
  return all / seconds / (tiles && quantised ? 2 : 1);
}

// `single` keeps the times with one thread.
bool RunCase(const Case& c, DType dtype, const Weights& weights, int threads,
             const Options& options, std::map<std::string, double>& single) {
  ThreadPool pool(threads);
  Workspace workspace;
  const Context context = {
      .threads = &pool,
      .workspace = &workspace,
      .compute = cpu::UsesAvx512Bf16() ? ComputeMode::kBF16 : ComputeMode::kF32,
      .kernel = {}};
  Call call(c, dtype, weights);
  const auto bytes = static_cast<double>(call.bytes());
  double spent = 0, best = 1e9, best_read = 1e9, best_rate = 0;
  std::vector<double> shares;
  for (int64_t turn = 0; spent < options.seconds || shares.size() < 5; ++turn) {
    // The floors, then the product on the copy after the one that was read.
    const double read =
        ReadSeconds(weights.Copy(2 * turn), call.bytes(), turn % 2 == 0 ? 8 : 1, pool);
    const double rate = ArithmeticRate(c, dtype, pool);
    Status status;
    const double time = Seconds([&] { status = call.Run(2 * turn + 1, context); });
    if (!status.ok()) {
      std::fprintf(stderr, "%s: %s\n", c.name, std::string(status.message()).c_str());
      return false;
    }
    spent += time + read;
    if (turn == 0) continue;  // memory is touched for the first time
    best = std::min(best, time);
    best_read = std::min(best_read, read);
    best_rate = std::max(best_rate, rate);
    shares.push_back(std::max(c.from_memory ? read : 0, c.flops() / rate) / time);
  }
  const std::string key = Concat(c.name, DTypeName(dtype));
  if (threads == 1) single[key] = best;
  const bool reads = c.from_memory && best_read > c.flops() / best_rate;
  std::printf("| %s | %s | %d | %.3f | %.1f | %.0f | ", c.name,
              std::string(DTypeName(dtype)).c_str(), threads, best * 1e3, bytes / best / 1e9,
              c.flops() / best / 1e9);
  if (reads) {
    std::printf("%.1f GB/s", bytes / best_read / 1e9);
  } else {
    std::printf("%.0f GFLOP/s", best_rate / 1e9);
  }
  std::printf(" | %.0f %% | ", 100 * Median(shares));
  std::printf(threads == 1 || !single.contains(key) ? "- |\n" : "%.2f |\n", single[key] / best);
  std::fflush(stdout);
  return true;
}

bool Wanted(const Options& options, DType dtype) {
  const std::string list = "," + options.types + ",";
  return list.find(Concat(",", DTypeName(dtype), ",")) != std::string::npos;
}

bool RunAll(const Options& options) {
  std::printf(
      "isa %s\n\n| product | weights | threads | ms | GB/s | GFLOP/s | ceiling | share | 2nd |\n"
      "| --- | --- | --: | --: | --: | --: | --: | --: | --: |\n",
      std::string(cpu::CurrentIsa()).c_str());
  std::map<std::string, double> single;
  for (const Case& c : kCases) {
    if (std::string_view(c.name).find(options.only) == std::string_view::npos) continue;
    const bool heads = c.kind == Kind::kHeads || c.kind == Kind::kHeadsOutUnit;
    for (const DType dtype : kTypes) {
      if (!Wanted(options, dtype) || (heads && dtype != DType::kBF16)) continue;
      const Weights weights(c, dtype);
      for (int threads = 1; threads <= options.threads; ++threads) {
        if (!RunCase(c, dtype, weights, threads, options, single)) return false;
      }
    }
  }
  return true;
}

constexpr char kUsage[] =
    "linear_bench [--only TEXT] [--types LIST] [--threads N] [--seconds S]\n"
    "  rows whose name holds TEXT; types as in bf16,q4_K; the head of the source says more\n";

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view flag = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    const auto number = [&](auto& to) {
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), to);
      return error == std::errc() && end == value.data() + value.size() && to > 0;
    };
    bool ok = i + 1 < argc;
    if (flag == "--only" && ok) {
      options.only = value;
    } else if (flag == "--types" && ok) {
      options.types = value;
    } else if (flag == "--threads" && ok) {
      ok = number(options.threads);
    } else if (flag == "--seconds" && ok) {
      ok = number(options.seconds);
    } else {
      ok = false;
    }
    if (!ok) {
      const bool help = flag == "--help";
      std::fprintf(help ? stdout : stderr, "%s", kUsage);
      return help ? 0 : 1;
    }
  }
  return RunAll(options) ? 0 : 1;
}

}  // namespace
}  // namespace mla

int main(int argc, char** argv) { return mla::Main(argc, argv); }
