// Attention at published MLA shapes against the multiply-add ceiling of this machine, as a table.
//
//   attention_bench [--only TEXT] [--threads N] [--seconds S]   speed; rows whose name holds TEXT
//   attention_bench --errors                                    errors of caches and kernels
//
// GFLOP/s = 2 heads n_q n_kv (d_k + d_v) / time, the fastest of several runs (other processes can
// only make one slower). Causal calls count every pair, as others do, though a chunk at the end of
// a long cache skips next to none. `with up` counts the up-projection of keys and values besides.
// `share` is of the bf16 (or f32) ceiling measured here with as many threads, by the tile product
// on operands in the first-level cache; an int8 cache has the same denominator. `vs bf16` is the
// median over pairs of runs, in turns with the bf16 cache. `2nd` is what the last thread brings:
// the speed over that with one thread.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/isa.h"
#include "mla/attention.h"
#include "mla/elementwise.h"
#include "mla/int8_latent.h"

namespace mla {
namespace {

constexpr int32_t kPageSize = 64;

struct Options {
  std::string only;
  int threads = std::min(2, UsableCpus());
  double seconds = 0.5;  // spent on each row
  bool errors = false;
};

double Seconds(const auto& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The tile product on operands that stay in the first-level cache: what the units can do through
// this code, in FLOP/s.
double MeasureCeiling(ComputeMode mode, int threads) {
  const cpu::TileKernels kernels = mode == ComputeMode::kBF16 && cpu::UsesAvx512Bf16()
                                       ? cpu::Avx512Bf16TileKernels()
                                       : cpu::SimdTileKernels(mode == ComputeMode::kBF16);
  constexpr int32_t kRows = 12, kDepth = 128, kRepeats = 2000;
  ThreadPool pool(threads);
  Workspace workspace;
  std::vector<cpu::Product> products;
  for (int t = 0; t < threads; ++t) {
    const int32_t cols = kernels.panel_cols;
    char* a = workspace.Allocate<char>(kRows * kDepth * 4);
    char* b = workspace.Allocate<char>(kDepth * cols * 4);
    std::fill_n(a, kRows * kDepth * 4, 0);
    std::fill_n(b, kDepth * cols * 4, 0);
    const int32_t steps = kDepth / kernels.step;
    products.push_back({a,
                        kDepth,
                        {b, steps, 0},
                        workspace.Allocate<float>(kRows * cols),
                        cols,
                        kRows,
                        cols,
                        steps,
                        nullptr});
  }
  double best = 1e9;
  for (int i = 0; i < 40; ++i) {
    best = std::min(best, Seconds([&] {
                      pool.ParallelFor(threads, [&](int64_t t, int) {
                        for (int k = 0; k < kRepeats; ++k) kernels.multiply(products[t]);
                      });
                    }));
  }
  return 2.0 * threads * kRepeats * kRows * kDepth * kernels.panel_cols / best;
}

enum class Form { kAbsorbed, kExpanded, kMha };

struct Case {
  const char* name;
  Form form;
  int32_t heads, q, kv;
  int32_t rank = 512, rope = 64, d_n = 128, d_v = 128;

  int32_t d_k() const { return form == Form::kAbsorbed ? rank + rope : d_n + rope; }
  int32_t out_dim() const { return form == Form::kAbsorbed ? rank : d_v; }
  double flops() const { return 2.0 * heads * q * kv * (d_k() + out_dim()); }
  double projection_flops() const {
    return form == Form::kExpanded ? 2.0 * heads * kv * rank * (d_n + d_v) : 0;
  }
};

constexpr Case kCases[] = {
    {"absorbed 576/512, 16 heads, 1 on 2,048", Form::kAbsorbed, 16, 1, 2048},
    {"absorbed 576/512, 16 heads, 1 on 8,192", Form::kAbsorbed, 16, 1, 8192},
    {"absorbed 576/512, 16 heads, 1 on 32,768", Form::kAbsorbed, 16, 1, 32768},
    {"absorbed 576/512, 128 heads, 1 on 8,192", Form::kAbsorbed, 128, 1, 8192},
    {"absorbed 576/512, 16 heads, 512 on 8,192", Form::kAbsorbed, 16, 512, 8192},
    {"expanded 192/128, 16 heads, 512 on 2,048", Form::kExpanded, 16, 512, 2048},
    {"expanded 192/128, 16 heads, 512 on 8,192", Form::kExpanded, 16, 512, 8192},
    {"MHA 192/128, 16 heads, 512 on 2,048", Form::kMha, 16, 512, 2048},
    {"MHA 192/128, 16 heads, 512 on 8,192", Form::kMha, 16, 512, 8192},
    {"absorbed 80/64, 8 heads, 1 on 512", Form::kAbsorbed, 8, 1, 512, 64, 16, 32, 32},
    {"absorbed 80/64, 8 heads, 512 on 512", Form::kAbsorbed, 8, 512, 512, 64, 16, 32, 32},
};

std::vector<float> Normal(int64_t n, float scale, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

std::vector<uint16_t> ToBf16(const std::vector<float>& x) {
  std::vector<uint16_t> bits(x.size());
  std::transform(x.begin(), x.end(), bits.begin(), F32ToBf16);
  return bits;
}

// The memory of a case, its cache in one dtype, and the call.
class Call {
 public:
  Call(const Case& c, DType cache, ComputeMode mode, ThreadPool* pool, Workspace* workspace)
      : case_(c), cache_type_(cache) {
    context_.threads = pool;
    context_.workspace = workspace;
    context_.compute = mode;
    const int64_t row = c.form == Form::kMha ? int64_t{c.heads} * c.d_k() : c.rank + c.rope;
    MakeCache(row);
    if (c.form == Form::kMha) {
      values_ = ToBf16(Normal(pages_ * kPageSize * c.heads * c.d_v, 1, 5));
    }
    if (c.form == Form::kExpanded) {
      w_uk_ = ToBf16(Normal(int64_t{c.heads} * c.d_n * c.rank, 0.05F, 3));
      w_uv_ = ToBf16(Normal(int64_t{c.heads} * c.d_v * c.rank, 0.05F, 4));
    }
    q_ = Normal(int64_t{c.q} * c.heads * c.d_k(), 1, 2);
    out_.resize(int64_t{c.q} * c.heads * c.out_dim());
    table_.resize(pages_);
    std::iota(table_.begin(), table_.end(), 0);
  }

  void UseKernel(std::string_view kernel) { context_.kernel = kernel; }
  const std::vector<float>& out() const { return out_; }
  double bytes_per_token() const { return row_bytes_; }

  Status operator()() {
    const Case& c = case_;
    const int32_t cu_q[] = {0, c.q};
    const PagedBatch batch{1, cu_q, &c.kv, table_.data(), pages_, kPageSize};
    const ConstTensor q(q_.data(), DType::kF32, {c.q, c.heads, c.d_k()});
    const Tensor out(out_.data(), DType::kF32, {c.q, c.heads, c.out_dim()});
    const float scale = 1 / std::sqrt(static_cast<float>(c.d_n + c.rope));
    const auto elements = row_bytes_ / static_cast<int64_t>(SizeOf(cache_type_));
    const ConstTensor cache(cache_.data(), cache_type_, {pages_, kPageSize, elements});
    switch (c.form) {
      case Form::kAbsorbed:
        return MlaAbsorbed({q, cache, batch, c.rank, scale, true, out, {}}, context_);
      case Form::kExpanded:
        return MlaExpanded({q,
                            cache,
                            {w_uk_.data(), DType::kBF16, {c.heads, c.d_n, c.rank}},
                            {w_uv_.data(), DType::kBF16, {c.heads, c.d_v, c.rank}},
                            batch,
                            scale,
                            true,
                            out,
                            {}},
                           context_);
      case Form::kMha: break;
    }
    return Gqa({q,
                {cache_.data(), DType::kBF16, {pages_, kPageSize, c.heads, c.d_k()}},
                {values_.data(), DType::kBF16, {pages_, kPageSize, c.heads, c.d_v}},
                batch,
                scale,
                true,
                out,
                {}},
               context_);
  }

 private:
  // The same random rows whatever the dtype.
  void MakeCache(int64_t row) {
    const Case& c = case_;
    pages_ = CeilDiv(c.kv, kPageSize);
    const int64_t tokens = pages_ * kPageSize;
    row_bytes_ = cache_type_ == DType::kI8 ? Int8LatentLayout{c.rank, c.rope}.bytes()
                                           : row * static_cast<int64_t>(SizeOf(cache_type_));
    cache_.resize(tokens * row_bytes_);
    const std::vector<float> x = Normal(tokens * row, 1, 1);
    std::vector<int64_t> slots(tokens);
    std::iota(slots.begin(), slots.end(), 0);
    const auto elements = row_bytes_ / static_cast<int64_t>(SizeOf(cache_type_));
    const Status status =
        CacheWrite({.x = {x.data(), DType::kF32, {tokens, row}},
                    .slots = slots,
                    .cache = Tensor(cache_.data(), cache_type_, {tokens, elements}),
                    .kv_lora_rank = c.rank},
                   Context{});
    if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  }

  const Case case_;
  const DType cache_type_;
  Context context_;
  int64_t pages_ = 0, row_bytes_ = 0;
  std::vector<char> cache_;
  std::vector<uint16_t> values_, w_uk_, w_uv_;
  std::vector<float> q_, out_;
  std::vector<int32_t> table_;
};

double Median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + std::ssize(v) / 2, v.end());
  return v[v.size() / 2];
}

struct Variant {
  const char* name;
  DType cache;
  ComputeMode mode;
};

// Times the variants of a case in turns; one row for each. `single` keeps the times with one
// thread.
bool RunCase(const Case& c, const std::vector<Variant>& variants, int threads,
             const Options& options, const std::map<std::pair<int, int>, double>& ceilings,
             std::map<std::string, double>& single) {
  ThreadPool pool(threads);
  Workspace workspace;
  std::vector<Call> calls;
  calls.reserve(variants.size());
  for (const Variant& v : variants) calls.emplace_back(c, v.cache, v.mode, &pool, &workspace);
  std::vector<std::vector<double>> times(variants.size());
  double spent = 0;
  while (spent < options.seconds * std::ssize(variants) || times[0].size() < 6) {
    for (size_t i = 0; i < calls.size(); ++i) {
      Status status;
      times[i].push_back(Seconds([&] { status = calls[i](); }));
      spent += times[i].back();
      if (!status.ok()) {
        std::fprintf(stderr, "%s: %s\n", c.name, std::string(status.message()).c_str());
        return false;
      }
    }
  }
  for (size_t i = 0; i < variants.size(); ++i) {
    const Variant& v = variants[i];
    const double best = *std::min_element(times[i].begin() + 1, times[i].end());
    const double ceiling = ceilings.at({static_cast<int>(v.mode), threads});
    std::vector<double> ratios;
    for (size_t k = 1; k < times[i].size(); ++k) ratios.push_back(times[0][k] / times[i][k]);
    const std::string key = std::string(c.name) + v.name;
    if (threads == 1) single[key] = best;
    const double all = c.flops() + c.projection_flops();
    std::printf("| %s | %s | %d | %.3f | %.0f | %.0f | %.0f %% | %.1f | ", c.name, v.name, threads,
                best * 1e3, c.flops() / best / 1e9, all / best / 1e9, 100 * all / best / ceiling,
                calls[i].bytes_per_token() * c.kv / best / 1e9);
    std::printf(i == 0 ? "- | " : "%.2f | ", Median(ratios));
    std::printf(threads == 1 || !single.contains(key) ? "- |\n" : "%.2f |\n", single[key] / best);
    std::fflush(stdout);
  }
  return true;
}

bool RunSpeed(const Options& options) {
  std::map<std::pair<int, int>, double> ceilings;
  std::printf("isa %s\n\n| ceiling | threads | GFLOP/s |\n| --- | --: | --: |\n",
              std::string(cpu::CurrentIsa()).c_str());
  for (const ComputeMode mode : {ComputeMode::kBF16, ComputeMode::kF32}) {
    for (int threads = 1; threads <= options.threads; ++threads) {
      const double flops = MeasureCeiling(mode, threads);
      ceilings[{static_cast<int>(mode), threads}] = flops;
      std::printf("| %s | %d | %.0f |\n", std::string(ComputeModeName(mode)).c_str(), threads,
                  flops / 1e9);
    }
  }
  std::printf(
      "\n| case | cache | threads | ms | GFLOP/s | with up | share | GB/s | vs bf16 | 2nd |\n"
      "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n");
  std::map<std::string, double> single;
  for (const Case& c : kCases) {
    if (std::string_view(c.name).find(options.only) == std::string_view::npos) continue;
    std::vector<Variant> variants = {{"bf16", DType::kBF16, ComputeMode::kBF16}};
    if (c.form != Form::kMha) variants.push_back({"int8", DType::kI8, ComputeMode::kBF16});
    for (int threads = 1; threads <= options.threads; ++threads) {
      if (!RunCase(c, variants, threads, options, ceilings, single)) return false;
    }
  }
  return true;
}

// ---- errors

struct Error {
  double rms = 0, max = 0;  // relative to the rms of what is right
};

Error Compare(const std::vector<float>& got, const std::vector<float>& want) {
  double squares = 0, reference = 0, max = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double difference = double{got[i]} - want[i];
    squares += difference * difference;
    reference += double{want[i]} * want[i];
    max = std::max(max, std::abs(difference));
  }
  const double rms = std::sqrt(reference / static_cast<double>(want.size()));
  return {std::sqrt(squares / static_cast<double>(want.size())) / rms, max / rms};
}

// Against fp32 arithmetic on an f32 cache of the same random latents.
bool RunErrors(const Options& options) {
  ThreadPool pool(options.threads);
  Workspace workspace;
  std::printf(
      "| case | cache, arithmetic | rms error / rms | max error / rms |\n"
      "| --- | --- | --: | --: |\n");
  for (const Case& c : kCases) {
    if (c.form == Form::kMha || std::string_view(c.name).find(options.only) == std::string::npos) {
      continue;
    }
    Call exact(c, DType::kF32, ComputeMode::kF32, &pool, &workspace);
    if (!exact().ok()) return false;
    const auto report = [&](const char* name, const std::vector<float>& got,
                            const std::vector<float>& want) {
      const Error error = Compare(got, want);
      std::printf("| %s | %s | %.2e | %.2e |\n", c.name, name, error.rms, error.max);
    };
    Call bf16(c, DType::kBF16, ComputeMode::kF32, &pool, &workspace);
    Call bf16_fast(c, DType::kBF16, ComputeMode::kBF16, &pool, &workspace);
    Call int8(c, DType::kI8, ComputeMode::kF32, &pool, &workspace);
    Call int8_fast(c, DType::kI8, ComputeMode::kBF16, &pool, &workspace);
    for (Call* call : {&bf16, &bf16_fast, &int8, &int8_fast}) {
      if (!(*call)().ok()) return false;
    }
    report("bf16, fp32", bf16.out(), exact.out());
    report("bf16, this kernel", bf16_fast.out(), exact.out());
    report("bf16, this kernel against fp32 on the same cache", bf16_fast.out(), bf16.out());
    report("int8, fp32", int8.out(), exact.out());
    report("int8, this kernel", int8_fast.out(), exact.out());
    report("int8, this kernel against fp32 on the same cache", int8_fast.out(), int8.out());
  }
  return true;
}

bool ParseNumber(std::string_view text, auto& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value > 0;
}

bool Parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--errors") {
      options.errors = true;
      continue;
    }
    if (flag == "--only") {
      options.only = value;
    } else if (flag == "--threads" ? !ParseNumber(value, options.threads)
                                   : flag != "--seconds" || !ParseNumber(value, options.seconds)) {
      return false;
    }
    ++i;
  }
  return true;
}

}  // namespace
}  // namespace mla

int main(int argc, char** argv) {
  mla::Options options;
  if (!mla::Parse(argc, argv, options)) {
    std::fprintf(stderr,
                 "usage: attention_bench [--only TEXT] [--threads N] [--seconds S] [--errors]\n");
    return 2;
  }
  return (options.errors ? mla::RunErrors(options) : mla::RunSpeed(options)) ? 0 : 1;
}
