// The tokens of one step over one or several sequences, laid out for the operators.
#ifndef MLA_MODEL_BATCH_H_
#define MLA_MODEL_BATCH_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kvcache/kv_cache.h"
#include "mla/attention.h"

namespace mla {

// New tokens of one sequence, which follow those already in its cache.
struct SequenceInput {
  CachedSequence* cache = nullptr;
  std::span<const int32_t> tokens;  // ids
  // The length the sequence is known to reach, if this step is a part of it: LongRoPE models turn
  // a prompt by its whole length. 0: the length after this step.
  int32_t known_length = 0;
};

// Built after the caches have been extended by the new tokens.
struct StepBatch {
  std::vector<int32_t> ids;         // [tokens]
  std::vector<int32_t> positions;   // [tokens]: 0 for a sequence's first token
  std::vector<int64_t> slots;       // [tokens]: where each token's cache rows go
  std::vector<int32_t> cu_q;        // [num_seqs + 1]
  std::vector<int32_t> kv_lens;     // [num_seqs], the new tokens included
  std::vector<int32_t> known_lens;  // [num_seqs], at least kv_lens
  std::vector<int32_t> page_table;  // [num_seqs, page_table_stride]; -1 past the end
  int64_t page_table_stride = 0;
  int32_t page_size = 0;

  int64_t num_tokens() const { return static_cast<int64_t>(ids.size()); }
  int32_t num_seqs() const { return static_cast<int32_t>(kv_lens.size()); }

  // Sequences [begin, end) as the attention operators take them.
  PagedBatch Paged(int32_t begin, int32_t end) const {
    PagedBatch batch;
    batch.num_seqs = end - begin;
    batch.cu_q = cu_q.data() + begin;
    batch.kv_lens = kv_lens.data() + begin;
    batch.page_table = page_table.data() + begin * page_table_stride;
    batch.page_table_stride = page_table_stride;
    batch.page_size = page_size;
    return batch;
  }
};

StepBatch BuildBatch(std::span<const SequenceInput> sequences, int32_t page_size);

}  // namespace mla

#endif  // MLA_MODEL_BATCH_H_
