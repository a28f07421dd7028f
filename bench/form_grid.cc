// The absorbed form of MLA against the expanded one, and what choosing between them by estimate
// (src/dispatch/mla_cost.h) costs.
//
//   form_grid [--heads LIST] [--queries LIST] [--depths LIST] [--threads N] [--kv bf16|f32|i8]
//              [--compute bf16|f32] [--repetitions R] [--csv] [--fit] [--from FILE]...
//
// For each point of the grid, one sequence: queries at the end of depth + queries cached tokens,
// with the dims of DeepSeek-V3 (512, 128/64/128) and bf16 weights. Both forms are timed from
// q_nope and the cache to the heads' outputs (absorbed: W_UK, attention, W_UV), in turns; the
// fastest run counts, since other programs can only make one slower. `regret` is the time of the
// form chosen over that of the better one, less 1. The whole grid takes some minutes; lists make it
// smaller. --from reads what --csv has printed instead of measuring. --fit prints the prices that
// fit these measurements best, in one thread's picoseconds: least squares of relative errors, no
// price negative.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/numeric.h"
#include "base/threads.h"
#include "base/workspace.h"
#include "dispatch/mla_cost.h"
#include "kernels/cpu/isa.h"
#include "mla/attention.h"
#include "mla/elementwise.h"
#include "mla/int8_latent.h"
#include "mla/linear.h"

namespace mla {
namespace {

constexpr int32_t kRank = 512, kRope = 64, kNope = 128, kValue = 128, kPageSize = 64;
constexpr int32_t kLatent = kRank + kRope;

struct Options {
  std::vector<int32_t> heads = {8, 16, 64, 128};
  std::vector<int32_t> queries = {1, 2, 4, 8, 16, 32, 64, 128, 512};
  std::vector<int32_t> depths = {0, 512, 2048, 8192, 32768};
  int threads = UsableCpus();
  int repetitions = 3;
  DType cache = DType::kBF16;
  ComputeMode compute = cpu::UsesAvx512Bf16() ? ComputeMode::kBF16 : ComputeMode::kF32;
  bool csv = false, fit = false;
  std::vector<std::string> from;
};

MlaShape ShapeOf(int32_t heads) { return {heads, kRank, kNope, kRope, kValue}; }

// Uniform in [-1, 1).
std::vector<float> Random(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31F;
  return x;
}

double Seconds(const auto& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The memory for the largest point, and both forms over it.
class Forms {
 public:
  explicit Forms(const Options& options) : options_(options), pool_(options.threads) {
    context_.threads = &pool_;
    context_.workspace = &workspace_;
    context_.compute = options.compute;
    const int32_t heads = *std::max_element(options.heads.begin(), options.heads.end());
    const int32_t queries = *std::max_element(options.queries.begin(), options.queries.end());
    const int32_t depth = *std::max_element(options.depths.begin(), options.depths.end());
    pages_ = CeilDiv(int64_t{depth} + queries, kPageSize);
    table_.resize(pages_);
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(1));
    for (const float x : Random(int64_t{heads} * (kNope + kValue) * kRank, 2)) {
      weights_.push_back(F32ToBf16(x * 0.05F));
    }
    q_ = Random(int64_t{queries} * heads * (kNope + kRope), 3);
    q_latent_.resize(int64_t{queries} * heads * kLatent);
    o_latent_.resize(int64_t{queries} * heads * kRank);
    out_.resize(int64_t{queries} * heads * kValue);
  }

  Status FillCache() {
    const int64_t tokens = pages_ * kPageSize;
    row_ = options_.cache == DType::kI8 ? Int8LatentLayout{kRank, kRope}.bytes() : kLatent;
    cache_.resize(tokens * RowBytes(options_.cache, row_));
    const std::vector<float> x = Random(tokens * kLatent, 4);
    std::vector<int64_t> slots(tokens);
    std::iota(slots.begin(), slots.end(), 0);
    return CacheWrite({.x = {x.data(), DType::kF32, {tokens, kLatent}},
                       .slots = slots,
                       .cache = Tensor(cache_.data(), options_.cache, {tokens, row_}),
                       .kv_lora_rank = options_.cache == DType::kI8 ? kRank : 0},
                      context_);
  }

  Status Run(MlaForm form, int32_t heads, int32_t queries, int32_t kv_len) {
    const int32_t cu_q[] = {0, queries};
    const PagedBatch batch{1, cu_q, &kv_len, table_.data(), pages_, kPageSize};
    const ConstTensor kv_b(weights_.data(), DType::kBF16, {heads, kNope + kValue, kRank});
    const ConstTensor w_uk = kv_b.Slice(1, 0, kNope);
    const ConstTensor w_uv = kv_b.Slice(1, kNope, kNope + kValue);
    const ConstTensor q(q_.data(), DType::kF32, {queries, heads, kNope + kRope});
    const ConstTensor cache(cache_.data(), options_.cache, {pages_, kPageSize, row_});
    const Tensor out(out_.data(), DType::kF32, {queries, heads, kValue});
    const float scale = 1 / std::sqrt(static_cast<float>(kNope + kRope));
    if (form == MlaForm::kExpanded) {
      return MlaExpanded({q, cache, w_uk, w_uv, batch, scale, true, out, {}}, context_);
    }
    const Tensor q_latent(q_latent_.data(), DType::kF32, {queries, heads, kLatent});
    const Tensor o_latent(o_latent_.data(), DType::kF32, {queries, heads, kRank});
    const ConstTensor w_uk_t(w_uk.data(), DType::kBF16, {heads, kRank, kNope},
                             {w_uk.stride(0), 1, w_uk.stride(1)});
    MLA_RETURN_IF_ERROR(HeadLinear(
        {.x = q.Slice(2, 0, kNope), .w = w_uk_t, .y = q_latent.Slice(2, 0, kRank)}, context_));
    MLA_RETURN_IF_ERROR(
        MlaAbsorbed({q_latent, cache, batch, kRank, scale, true, o_latent, {}}, context_));
    return HeadLinear({.x = o_latent, .w = w_uv, .y = out}, context_);
  }

 private:
  const Options& options_;
  ThreadPool pool_;
  Workspace workspace_;
  Context context_;
  int64_t pages_ = 0, row_ = 0;
  std::vector<int32_t> table_;
  std::vector<char> cache_;
  std::vector<uint16_t> weights_;
  std::vector<float> q_, q_latent_, o_latent_, out_;
};

struct Point {
  int32_t heads, queries, depth;
  double absorbed, expanded;  // measured seconds
  MlaForm chosen;

  double best() const { return std::min(absorbed, expanded); }
  double taken() const { return chosen == MlaForm::kAbsorbed ? absorbed : expanded; }
  double regret() const { return taken() / best() - 1; }
  double measured(MlaForm form) const { return form == MlaForm::kAbsorbed ? absorbed : expanded; }
};

void Choose(const Options& options, Point& point) {
  point.chosen = ChooseMlaForm(ShapeOf(point.heads), point.queries, point.depth + point.queries,
                               MlaArithmeticOf(options.compute, options.cache));
}

// Both forms in turns: at least once each, and more often where a run is short.
Status Measure(const Options& options, Forms& forms, Point& point) {
  constexpr double kEnough = 0.02;  // seconds
  point.absorbed = point.expanded = 1e9;
  const int32_t kv_len = point.depth + point.queries;
  double spent = 0;
  for (int i = 0; i < 50; ++i) {
    if (i >= options.repetitions && spent > kEnough) break;
    if (i > 0 && spent > 0.5) break;
    for (const MlaForm form : {MlaForm::kAbsorbed, MlaForm::kExpanded}) {
      Status status;
      const double seconds =
          Seconds([&] { status = forms.Run(form, point.heads, point.queries, kv_len); });
      MLA_RETURN_IF_ERROR(std::move(status));
      spent += seconds;
      double& best = form == MlaForm::kAbsorbed ? point.absorbed : point.expanded;
      best = std::min(best, seconds);
    }
  }
  Choose(options, point);
  return {};
}

const char* NameOf(MlaForm form) { return form == MlaForm::kAbsorbed ? "absorbed" : "expanded"; }

void Print(const Options& options, const Point& p) {
  const MlaArithmetic arithmetic = MlaArithmeticOf(options.compute, options.cache);
  double estimates[2];
  for (const MlaForm form : {MlaForm::kAbsorbed, MlaForm::kExpanded}) {
    estimates[form == MlaForm::kExpanded] =
        1e3 / options.threads *
        EstimateMla(form, ShapeOf(p.heads), p.queries, p.depth + p.queries, arithmetic).total();
  }
  std::printf(options.csv ? "%d,%d,%d,%.4f,%.4f,%.4f,%.4f,%s,%.3f\n"
                          : "%5d %7d %6d %10.3f %10.3f %10.3f %10.3f  %s %7.1f %%\n",
              p.heads, p.queries, p.depth, p.absorbed * 1e3, p.expanded * 1e3, estimates[0],
              estimates[1], NameOf(p.chosen), p.regret() * (options.csv ? 1 : 100));
  std::fflush(stdout);
}

// Prices by coordinate descent on sum (sum_i price_i count_i / measured - 1)^2, prices >= 0.
std::array<double, kMlaTerms> Fit(const Options& options, const std::vector<Point>& points,
                                  MlaForm form) {
  std::vector<std::array<double, kMlaTerms>> rows;
  for (const Point& p : points) {
    const double picoseconds = p.measured(form) * 1e12 * options.threads;
    std::array<double, kMlaTerms> row =
        CountMlaWork(form, ShapeOf(p.heads), p.queries, p.depth + p.queries).counts;
    for (double& count : row) count /= picoseconds;
    rows.push_back(row);
  }
  std::array<double, kMlaTerms> prices{};
  for (int pass = 0; pass < 20000; ++pass) {
    for (int i = 0; i < kMlaTerms; ++i) {
      double numerator = 0, denominator = 0;
      for (const auto& row : rows) {
        double others = 0;
        for (int j = 0; j < kMlaTerms; ++j) others += j == i ? 0 : prices[j] * row[j];
        numerator += row[i] * (1 - others);
        denominator += row[i] * row[i];
      }
      prices[i] = denominator > 0 ? std::max(0.0, numerator / denominator) : 0;
    }
  }
  return prices;
}

double Cost(const Point& p, MlaForm form, const std::array<double, kMlaTerms>& prices) {
  const auto counts = CountMlaWork(form, ShapeOf(p.heads), p.queries, p.depth + p.queries).counts;
  return std::inner_product(counts.begin(), counts.end(), prices.begin(), 0.0);
}

void PrintRegret(const char* what, const std::vector<Point>& points) {
  const auto worst =
      std::max_element(points.begin(), points.end(),
                       [](const Point& a, const Point& b) { return a.regret() < b.regret(); });
  double sum = 0;
  for (const Point& p : points) sum += p.regret();
  std::fprintf(stderr,
               "regret of %s over %zu points: mean %.1f %%, worst %.1f %% (%d heads, %d on %d)\n",
               what, points.size(), 100 * sum / static_cast<double>(points.size()),
               100 * worst->regret(), worst->heads, worst->queries, worst->depth);
}

void PrintFit(const Options& options, std::vector<Point> points) {
  const auto absorbed = Fit(options, points, MlaForm::kAbsorbed);
  const auto expanded = Fit(options, points, MlaForm::kExpanded);
  for (const MlaForm form : {MlaForm::kAbsorbed, MlaForm::kExpanded}) {
    std::printf("%s: {", NameOf(form));
    const auto& prices = form == MlaForm::kAbsorbed ? absorbed : expanded;
    for (int i = 0; i < kMlaTerms; ++i) std::printf("%s%.4g", i > 0 ? ", " : "", prices[i]);
    double worst = 0;
    for (const Point& p : points) {
      const double picoseconds = p.measured(form) * 1e12 * options.threads;
      worst = std::max(worst, std::fabs(Cost(p, form, prices) / picoseconds - 1));
    }
    std::printf("}  (largest error of a point %.0f %%)\n", worst * 100);
  }
  for (Point& p : points) {
    p.chosen = Cost(p, MlaForm::kAbsorbed, absorbed) <= Cost(p, MlaForm::kExpanded, expanded)
                   ? MlaForm::kAbsorbed
                   : MlaForm::kExpanded;
  }
  PrintRegret("these prices", points);
}

// The points of files that --csv has written.
Status ReadPoints(const Options& options, std::vector<Point>& points) {
  for (const std::string& path : options.from) {
    std::FILE* file = std::fopen(path.c_str(), "r");
    if (file == nullptr) return NotFound(path, ": cannot be read");
    char line[256];
    while (std::fgets(line, sizeof(line), file) != nullptr) {
      Point p{};
      if (std::sscanf(line, "%d,%d,%d,%lf,%lf,", &p.heads, &p.queries, &p.depth, &p.absorbed,
                      &p.expanded) != 5) {
        continue;  // the header, and what --fit has printed
      }
      p.absorbed /= 1e3;
      p.expanded /= 1e3;
      Choose(options, p);
      points.push_back(p);
    }
    std::fclose(file);
  }
  return points.empty() ? Status(InvalidArgument("--from: no points")) : Status();
}

Status MeasureGrid(const Options& options, std::vector<Point>& points) {
  Forms forms(options);
  MLA_RETURN_IF_ERROR(forms.FillCache());
  std::printf(options.csv ? "heads,queries,depth,absorbed_ms,expanded_ms,absorbed_estimate_ms,"
                            "expanded_estimate_ms,chosen,regret\n"
                          : "heads queries  depth   absorbed   expanded  estimated  estimated\n"
                            "                             ms         ms   absorbed   expanded  "
                            "chosen     regret\n");
  for (const int32_t heads : options.heads) {
    for (const int32_t depth : options.depths) {
      for (const int32_t queries : options.queries) {
        Point& point = points.emplace_back(Point{heads, queries, depth, 0, 0, {}});
        MLA_RETURN_IF_ERROR(Measure(options, forms, point));
        Print(options, point);
      }
    }
  }
  return {};
}

Status RunGrid(const Options& options) {
  std::vector<Point> points;
  MLA_RETURN_IF_ERROR(options.from.empty() ? MeasureGrid(options, points)
                                           : ReadPoints(options, points));
  PrintRegret("the choice", points);
  if (options.fit) PrintFit(options, points);
  return {};
}

bool ParseList(std::string_view text, std::vector<int32_t>& list, int32_t least) {
  list.clear();
  while (!text.empty()) {
    int32_t value = 0;
    const size_t end = std::min(text.find(','), text.size());
    const auto [at, error] = std::from_chars(text.data(), text.data() + end, value);
    if (error != std::errc() || at != text.data() + end || value < least || value > 1 << 20) {
      return false;
    }
    list.push_back(value);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return !list.empty();
}

bool ParseNumber(std::string_view text, int& value) {
  std::vector<int32_t> list;
  if (!ParseList(text, list, 1) || list.size() != 1 || list[0] > 1024) return false;
  value = list[0];
  return true;
}

bool ParseOption(std::string_view name, std::string_view value, Options& options) {
  if (name == "--heads") return ParseList(value, options.heads, 1);
  if (name == "--queries") return ParseList(value, options.queries, 1);
  if (name == "--depths") return ParseList(value, options.depths, 0);
  if (name == "--threads") return ParseNumber(value, options.threads);
  if (name == "--repetitions") return ParseNumber(value, options.repetitions);
  if (name == "--from") {
    options.from.emplace_back(value);
    return !value.empty();
  }
  if (name == "--kv") {
    options.cache = value == "i8" ? DType::kI8 : value == "f32" ? DType::kF32 : DType::kBF16;
    return value == "i8" || value == "f32" || value == "bf16";
  }
  if (name == "--compute") {
    options.compute = value == "f32" ? ComputeMode::kF32 : ComputeMode::kBF16;
    return value == "f32" || value == "bf16";
  }
  return false;
}

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--csv" || name == "--fit") {
      (name == "--csv" ? options.csv : options.fit) = true;
      continue;
    }
    const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
    if (!ParseOption(name, value, options)) {
      std::fprintf(stderr,
                   "form_grid: error: %s %s; the head of bench/form_grid.cc has the flags\n",
                   argv[i], std::string(value).c_str());
      return 2;
    }
    ++i;
  }
  const Status status = RunGrid(options);
  if (!status.ok()) {
    std::fprintf(stderr, "form_grid: error: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace mla

int main(int argc, char** argv) { return mla::Main(argc, argv); }
