// Attention calls for tests: a description, the memory it needs with everything that must not be
// read poisoned, and a comparison of results.
#ifndef MLA_TESTS_SUPPORT_ATTENTION_CASE_H_
#define MLA_TESTS_SUPPORT_ATTENTION_CASE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mla/attention.h"
#include "mla/int8_latent.h"
#include "support/tolerance.h"

namespace mla::test {

struct AttentionCase {
  Operator op = Operator::kMlaAbsorbed;
  int32_t heads = 1;
  int32_t kv_heads = 1;      // gqa only
  int32_t kv_lora_rank = 0;  // not gqa
  int32_t rope_dim = 0;      // not gqa
  int32_t d_n = 0;           // expanded: qk_nope_head_dim; gqa: d_k
  int32_t d_v = 0;           // expanded and gqa
  int32_t page_size = 16;
  std::vector<int32_t> q_lens = {1};
  std::vector<int32_t> kv_lens = {1};
  DType cache = DType::kBF16;  // weights too; i8: int8 latents, weights in bf16
  bool causal = true;
  bool strided = false;           // gaps between rows of q, out, lse and cache tokens
  bool in_major_weights = false;  // the middle axis of w_uk and w_uv has stride 1
  bool with_lse = true;
  uint32_t seed = 1;

  int32_t RowDim() const { return op == Operator::kGqa ? d_n : kv_lora_rank + rope_dim; }
  int32_t QueryDim() const {
    return op == Operator::kMlaAbsorbed ? RowDim() : op == Operator::kGqa ? d_n : d_n + rope_dim;
  }
  Int8LatentLayout Latent() const { return {kv_lora_rank, rope_dim}; }
  DType WeightType() const { return cache == DType::kI8 ? DType::kBF16 : cache; }
  int32_t OutDim() const { return op == Operator::kMlaAbsorbed ? kv_lora_rank : d_v; }
  std::string ToString() const;
};

// Results without gaps: out [tokens, heads, d_v], lse [tokens, heads] or empty.
struct AttentionResult {
  int32_t heads = 0;
  int32_t d_v = 0;
  std::vector<float> out;
  std::vector<float> lse;

  bool operator==(const AttentionResult&) const = default;
  AttentionResult Tokens(int64_t begin, int64_t end) const;
};

// The memory of a case. Pages are shuffled, and more than are needed; unused pages, the rest of the
// last page, gaps, query tokens of no sequence and unused page table entries hold NaN or a huge
// number. Cached values and queries come from `seed` and the index of the sequence, so sequence s
// is the same whatever else is in the batch.
class AttentionMemory {
 public:
  explicit AttentionMemory(const AttentionCase& c);

  // The case with only sequence `s`, from the same random numbers.
  AttentionMemory Only(int32_t s) const;

  // Makes a number of a query row, or all of a cached key, NaN.
  void SetQueryToNaN(int64_t token, int32_t head);
  void SetKeyToNaN(int32_t seq, int32_t j);

  // Runs `context.kernel`. An error of the call or a write outside out and lse is the test's
  // failure. `scale_factor` other than 1 is a sabotage.
  AttentionResult Run(const Context& context, float scale_factor = 1) const;

  // The text of the refusal by `context.kernel`, if it refuses.
  std::optional<std::string> Refusal(const Context& context) const;

  const AttentionCase& description() const { return case_; }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  AttentionMemory(const AttentionCase& c, int32_t first_seed);
  void BuildSequences(int32_t first_seed);
  void BuildWeights();
  std::vector<uint8_t> BuildPool(int64_t row_dim, int64_t salt, int32_t first_seed);
  int64_t TokenStride(int64_t row_dim) const;  // elements from one token of a pool to the next
  void StoreToken(std::vector<uint8_t>& pool, int64_t at, const std::vector<float>& row) const;
  ConstTensor View(const std::vector<uint8_t>& pool, int64_t row_dim) const;
  PagedBatch Batch() const;
  ConstTensor Query() const;
  ConstTensor Weight(const std::vector<uint8_t>& w, int64_t rows) const;
  Status Call(const Context& context, float scale, const Tensor& out, const Tensor& lse) const;

  AttentionCase case_;
  int32_t first_seed_;
  int64_t num_tokens_ = 0;  // of sequences
  int64_t num_pages_ = 0;
  int64_t table_stride_ = 0;
  std::vector<int32_t> cu_q_;
  std::vector<int32_t> page_table_;
  std::vector<float> q_;
  std::vector<uint8_t> k_, v_;  // pools; v_ for gqa only
  std::vector<uint8_t> w_uk_, w_uv_;
};

// Empty if every value of `got` is within the tolerance; else where the worst one is. -inf matches
// only -inf, and NaN nothing.
std::string FindMismatch(const AttentionResult& got, const AttentionResult& want,
                         const Tolerance& tolerance);

// The largest |got - want| / (abs + rel |want|) of out and lse.
double WorstRatio(const AttentionResult& got, const AttentionResult& want,
                  const Tolerance& tolerance);

// The shapes every kernel is tested on.
std::vector<AttentionCase> AttentionGrid();

// A small random case, the same for the same seed.
AttentionCase RandomAttentionCase(uint32_t seed);

}  // namespace mla::test

#endif  // MLA_TESTS_SUPPORT_ATTENTION_CASE_H_
