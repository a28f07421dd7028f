#include "support/attention_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/numeric.h"
#include "mla/elementwise.h"

namespace mla::test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int32_t kPoisonId = 2147480000;
constexpr float kUntouched = 12345.0f;  // in out and lse before the call
constexpr int64_t kGap = 5;             // elements between rows of a strided tensor
constexpr int64_t kByteGap = 12;        // between int8 latents, which begin at multiples of 4

// Every other poisoned element is NaN, the rest huge.
float Poison(int64_t i) { return i % 2 == 0 ? kNaN : 2147480000.0f; }

void Store(std::vector<uint8_t>& bytes, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(&bytes[index * 4], &value, 4);
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? F32ToF16(value) : F32ToBf16(value);
  std::memcpy(&bytes[index * 2], &bits, 2);
}

// Normal numbers from a small generator of our own: the standard library's distributions cost more
// than the kernels under test.
class Normal {
 public:
  explicit Normal(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  float operator()() {
    float sum = -6;
    for (int i = 0; i < 6; ++i) {
      state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
      sum += static_cast<float>(state_ >> 40) * 0x1p-23f;
    }
    return sum * 0.7071f;
  }

 private:
  uint64_t state_;
};

int64_t Sum(const std::vector<int32_t>& v) {
  int64_t sum = 0;
  for (int32_t x : v) sum += x;
  return sum;
}

}  // namespace

std::string AttentionCase::ToString() const {
  const char* name = op == Operator::kMlaAbsorbed   ? "absorbed"
                     : op == Operator::kMlaExpanded ? "expanded"
                                                    : "gqa";
  std::string text = Concat(name, " heads ", heads, "/", kv_heads, " rank ", kv_lora_rank, " rope ",
                            rope_dim, " d_n ", d_n, " d_v ", d_v, " page ", page_size, " ",
                            DTypeName(cache), causal ? " causal" : "", strided ? " strided" : "",
                            in_major_weights ? " in-major" : "", " seed ", seed, " q");
  for (int32_t n : q_lens) text += Concat(" ", n);
  text += " kv";
  for (int32_t n : kv_lens) text += Concat(" ", n);
  return text;
}

AttentionResult AttentionResult::Tokens(int64_t begin, int64_t end) const {
  AttentionResult part{heads, d_v, {}, {}};
  part.out.assign(out.begin() + begin * heads * d_v, out.begin() + end * heads * d_v);
  if (!lse.empty()) part.lse.assign(lse.begin() + begin * heads, lse.begin() + end * heads);
  return part;
}

AttentionMemory::AttentionMemory(const AttentionCase& c) : AttentionMemory(c, 0) {}

AttentionMemory::AttentionMemory(const AttentionCase& c, int32_t first_seed)
    : case_(c), first_seed_(first_seed) {
  BuildSequences(first_seed);
  k_ = BuildPool(c.RowDim(), 1, first_seed);
  if (c.op == Operator::kGqa) v_ = BuildPool(c.d_v, 2, first_seed);
  if (c.op == Operator::kMlaExpanded) BuildWeights();
}

AttentionMemory AttentionMemory::Only(int32_t s) const {
  AttentionCase c = case_;
  c.q_lens = {case_.q_lens[s]};
  c.kv_lens = {case_.kv_lens[s]};
  return AttentionMemory(c, first_seed_ + s);
}

void AttentionMemory::BuildSequences(int32_t first_seed) {
  const auto num_seqs = static_cast<int32_t>(case_.q_lens.size());
  // Token 0, and one after the last, belong to no sequence.
  cu_q_.assign(1, 1);
  for (int32_t n : case_.q_lens) cu_q_.push_back(cu_q_.back() + n);
  num_tokens_ = Sum(case_.q_lens);
  int64_t used = 0;
  for (int32_t n : case_.kv_lens) {
    const int64_t pages = CeilDiv(n, case_.page_size);
    used += pages;
    table_stride_ = std::max(table_stride_, pages + 2);
  }
  num_pages_ = used + 3;
  std::vector<int32_t> ids(num_pages_);
  for (int64_t i = 0; i < num_pages_; ++i) ids[i] = static_cast<int32_t>(i);
  std::mt19937 rng(case_.seed);
  std::shuffle(ids.begin(), ids.end(), rng);
  page_table_.assign(num_seqs * table_stride_, kPoisonId);
  for (int32_t s = 0; s < num_seqs; ++s) {
    for (int64_t i = 0; i < CeilDiv(case_.kv_lens[s], case_.page_size); ++i) {
      page_table_[s * table_stride_ + i] = ids.back();
      ids.pop_back();
    }
  }
  const int64_t row = case_.QueryDim() + (case_.strided ? kGap : 0);
  q_.resize((num_tokens_ + 2) * case_.heads * row);
  for (size_t i = 0; i < q_.size(); ++i) q_[i] = Poison(static_cast<int64_t>(i));
  for (int32_t s = 0; s < num_seqs; ++s) {
    Normal normal(case_.seed * 1000 + (first_seed + s) * 10 + 3);
    for (int64_t i = int64_t{cu_q_[s]} * case_.heads; i < int64_t{cu_q_[s + 1]} * case_.heads;
         ++i) {
      for (int32_t d = 0; d < case_.QueryDim(); ++d) q_[i * row + d] = normal();
    }
  }
}

int64_t AttentionMemory::TokenStride(int64_t row_dim) const {
  if (case_.cache == DType::kI8) return case_.Latent().bytes() + (case_.strided ? kByteGap : 0);
  const int64_t kv_heads = case_.op == Operator::kGqa ? case_.kv_heads : 1;
  return kv_heads * row_dim + (case_.strided ? kGap : 0);
}

void AttentionMemory::StoreToken(std::vector<uint8_t>& pool, int64_t at,
                                 const std::vector<float>& row) const {
  if (case_.cache != DType::kI8) {
    for (size_t d = 0; d < row.size(); ++d) {
      Store(pool, case_.cache, at + static_cast<int64_t>(d), row[d]);
    }
    return;
  }
  const int64_t slot = 0;
  Context context;
  context.kernel = "reference";
  const Status status =
      CacheWrite({.x = {row.data(), DType::kF32, {1, std::ssize(row)}},
                  .slots = {&slot, 1},
                  .cache = Tensor(pool.data() + at, DType::kI8, {1, case_.Latent().bytes()}),
                  .kv_lora_rank = case_.kv_lora_rank},
                 context);
  EXPECT_TRUE(status.ok()) << status.message();
}

std::vector<uint8_t> AttentionMemory::BuildPool(int64_t row_dim, int64_t salt, int32_t first_seed) {
  const int64_t kv_heads = case_.op == Operator::kGqa ? case_.kv_heads : 1;
  const int64_t token = TokenStride(row_dim);
  const int64_t elements = num_pages_ * case_.page_size * token;
  std::vector<uint8_t> pool(elements * SizeOf(case_.cache), 0xff);  // scales and k_pe: NaN
  for (int64_t i = 0; i < elements && case_.cache != DType::kI8; ++i) {
    Store(pool, case_.cache, i, Poison(i));
  }
  std::vector<float> row(kv_heads * row_dim);
  for (size_t s = 0; s < case_.kv_lens.size(); ++s) {
    Normal normal(case_.seed * 1000 + (first_seed + s) * 10 + salt + 3);
    for (int64_t j = 0; j < case_.kv_lens[s]; ++j) {
      const int64_t page = page_table_[s * table_stride_ + j / case_.page_size];
      const int64_t at = (page * case_.page_size + j % case_.page_size) * token;
      for (float& x : row) x = normal();
      StoreToken(pool, at, row);
    }
  }
  return pool;
}

void AttentionMemory::BuildWeights() {
  const auto fill = [&](std::vector<uint8_t>& w, int64_t rows, uint64_t salt) {
    const int64_t n = case_.heads * rows * case_.kv_lora_rank;
    const float scale = 1.0f / std::sqrt(static_cast<float>(case_.kv_lora_rank));
    Normal normal(case_.seed + salt);
    w.resize(n * SizeOf(case_.WeightType()));
    for (int64_t i = 0; i < n; ++i) Store(w, case_.WeightType(), i, normal() * scale);
  };
  fill(w_uk_, case_.d_n, 101);
  fill(w_uv_, case_.d_v, 102);
}

void AttentionMemory::SetQueryToNaN(int64_t token, int32_t head) {
  const int64_t row = case_.QueryDim() + (case_.strided ? kGap : 0);
  // The first query tokens are those of no sequence.
  q_[((cu_q_[0] + token) * case_.heads + head) * row] = kNaN;
}

void AttentionMemory::SetKeyToNaN(int32_t seq, int32_t j) {
  const int64_t token = TokenStride(case_.RowDim());
  const int64_t page = page_table_[seq * table_stride_ + j / case_.page_size];
  const int64_t kv_heads = case_.op == Operator::kGqa ? case_.kv_heads : 1;
  StoreToken(k_, (page * case_.page_size + j % case_.page_size) * token,
             std::vector<float>(kv_heads * case_.RowDim(), kNaN));
}

ConstTensor AttentionMemory::View(const std::vector<uint8_t>& pool, int64_t row_dim) const {
  const int64_t kv_heads = case_.op == Operator::kGqa ? case_.kv_heads : 1;
  const int64_t token = TokenStride(row_dim);
  if (case_.op != Operator::kGqa) {
    const int64_t dim = case_.cache == DType::kI8 ? case_.Latent().bytes() : row_dim;
    return ConstTensor(pool.data(), case_.cache, {num_pages_, case_.page_size, dim},
                       {case_.page_size * token, token, 1});
  }
  return ConstTensor(pool.data(), case_.cache, {num_pages_, case_.page_size, kv_heads, row_dim},
                     {case_.page_size * token, token, row_dim, 1});
}

PagedBatch AttentionMemory::Batch() const {
  PagedBatch batch;
  batch.num_seqs = static_cast<int32_t>(case_.q_lens.size());
  batch.cu_q = cu_q_.data();
  batch.kv_lens = case_.kv_lens.data();
  batch.page_table = page_table_.data();
  batch.page_table_stride = table_stride_;
  batch.page_size = case_.page_size;
  return batch;
}

ConstTensor AttentionMemory::Query() const {
  const int64_t row = case_.QueryDim() + (case_.strided ? kGap : 0);
  return ConstTensor(q_.data(), DType::kF32, {num_tokens_ + 2, case_.heads, case_.QueryDim()},
                     {case_.heads * row, row, 1});
}

ConstTensor AttentionMemory::Weight(const std::vector<uint8_t>& w, int64_t rows) const {
  const int64_t rank = case_.kv_lora_rank;
  if (case_.in_major_weights) {
    return ConstTensor(w.data(), case_.WeightType(), {case_.heads, rows, rank},
                       {rows * rank, 1, rows});
  }
  return ConstTensor(w.data(), case_.WeightType(), {case_.heads, rows, rank});
}

Status AttentionMemory::Call(const Context& context, float scale, const Tensor& out,
                             const Tensor& lse) const {
  switch (case_.op) {
    case Operator::kMlaAbsorbed:
      return MlaAbsorbed({Query(), View(k_, case_.RowDim()), Batch(), case_.kv_lora_rank, scale,
                          case_.causal, out, lse},
                         context);
    case Operator::kMlaExpanded:
      return MlaExpanded({Query(), View(k_, case_.RowDim()), Weight(w_uk_, case_.d_n),
                          Weight(w_uv_, case_.d_v), Batch(), scale, case_.causal, out, lse},
                         context);
    case Operator::kGqa:
      return Gqa({Query(), View(k_, case_.d_n), View(v_, case_.d_v), Batch(), scale, case_.causal,
                  out, lse},
                 context);
    default: return InvalidArgument("not an attention operator");
  }
}

AttentionResult AttentionMemory::Run(const Context& context, float scale_factor) const {
  const int64_t heads = case_.heads, d_v = case_.OutDim(), tokens = num_tokens_ + 2;
  const int64_t gap = case_.strided ? kGap : 0;
  std::vector<float> out(tokens * heads * (d_v + gap), kUntouched);
  std::vector<float> lse(tokens * (heads + gap), kUntouched);
  const Tensor out_view(out.data(), DType::kF32, {tokens, heads, d_v},
                        {heads * (d_v + gap), d_v + gap, 1});
  const Tensor lse_view = case_.with_lse
                              ? Tensor(lse.data(), DType::kF32, {tokens, heads}, {heads + gap, 1})
                              : Tensor();
  const float scale = scale_factor / std::sqrt(static_cast<float>(case_.QueryDim()));
  const Status status = Call(context, scale, out_view, lse_view);
  EXPECT_TRUE(status.ok()) << case_.ToString() << ": " << status.message();

  AttentionResult result{case_.heads, static_cast<int32_t>(d_v), {}, {}};
  int64_t outside = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(out.size()); ++i) {
    const int64_t token = i / (heads * (d_v + gap));
    if (token >= 1 && token <= num_tokens_ && i % (d_v + gap) < d_v) {
      result.out.push_back(out[i]);
    } else if (out[i] != kUntouched) {
      ++outside;
    }
  }
  for (int64_t i = 0; i < static_cast<int64_t>(lse.size()) && case_.with_lse; ++i) {
    const int64_t token = i / (heads + gap);
    if (token >= 1 && token <= num_tokens_ && i % (heads + gap) < heads) {
      result.lse.push_back(lse[i]);
    } else if (lse[i] != kUntouched) {
      ++outside;
    }
  }
  EXPECT_EQ(outside, 0) << "values written outside the result: " << case_.ToString();
  return result;
}

std::optional<std::string> AttentionMemory::Refusal(const Context& context) const {
  std::vector<float> out(1);
  // Nothing runs: only dtypes, strides and shapes of the outputs are looked at.
  const Tensor out_view(out.data(), DType::kF32, {num_tokens_ + 2, case_.heads, case_.OutDim()});
  Result<KernelVerdicts> verdicts = KernelVerdicts{};
  switch (case_.op) {
    case Operator::kMlaAbsorbed:
      verdicts = ExplainMlaAbsorbed(
          {Query(), View(k_, case_.RowDim()), Batch(), case_.kv_lora_rank, 1, true, out_view, {}},
          context);
      break;
    case Operator::kMlaExpanded:
      verdicts = ExplainMlaExpanded({Query(),
                                     View(k_, case_.RowDim()),
                                     Weight(w_uk_, case_.d_n),
                                     Weight(w_uv_, case_.d_v),
                                     Batch(),
                                     1,
                                     true,
                                     out_view,
                                     {}},
                                    context);
      break;
    case Operator::kGqa:
      verdicts = ExplainGqa(
          {Query(), View(k_, case_.d_n), View(v_, case_.d_v), Batch(), 1, true, out_view, {}},
          context);
      break;
    default: return "not an attention operator";
  }
  EXPECT_TRUE(verdicts.ok()) << verdicts.message();
  for (const KernelVerdict& verdict : *verdicts) {
    if (verdict.kernel != context.kernel) continue;
    if (verdict.refusal.empty()) return std::nullopt;
    return std::string(verdict.refusal);
  }
  return "no such kernel";
}

namespace {

// Of two arrays of the same size: the index of the worst value and its ratio to the tolerance.
struct Worst {
  size_t index = 0;
  double ratio = 0;
};
Worst FindWorst(const std::vector<float>& got, const std::vector<float>& want,
                const Tolerance& tolerance) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Worst worst;
  for (size_t i = 0; i < want.size(); ++i) {
    double ratio = std::abs(double{got[i]} - want[i]) /
                   (tolerance.abs + tolerance.rel * std::abs(double{want[i]}));
    if (std::isinf(want[i]) || std::isnan(ratio)) ratio = got[i] == want[i] ? 0 : kInfinity;
    if (ratio > worst.ratio) worst = {i, ratio};
  }
  return worst;
}

std::string Describe(const char* name, const std::vector<float>& got,
                     const std::vector<float>& want, const Tolerance& tolerance) {
  if (got.size() != want.size()) {
    return Concat(name, " has ", got.size(), " values, want ", want.size());
  }
  const Worst worst = FindWorst(got, want, tolerance);
  if (worst.ratio <= 1) return {};
  return Concat(name, "[", worst.index, "] is ", got[worst.index], ", want ", want[worst.index],
                ": ", worst.ratio, " times the tolerance");
}

}  // namespace

std::string FindMismatch(const AttentionResult& got, const AttentionResult& want,
                         const Tolerance& tolerance) {
  std::string text = Describe("out", got.out, want.out, tolerance);
  if (text.empty()) text = Describe("lse", got.lse, want.lse, tolerance);
  return text;
}

double WorstRatio(const AttentionResult& got, const AttentionResult& want,
                  const Tolerance& tolerance) {
  return std::max(FindWorst(got.out, want.out, tolerance).ratio,
                  FindWorst(got.lse, want.lse, tolerance).ratio);
}

}  // namespace mla::test
