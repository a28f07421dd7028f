#include "model/batch.h"

#include <algorithm>

namespace mla {

StepBatch BuildBatch(std::span<const SequenceInput> sequences, int32_t page_size) {
  StepBatch batch;
  batch.page_size = page_size;
  batch.cu_q.push_back(0);
  for (const SequenceInput& sequence : sequences) {
    const CachedSequence& cache = *sequence.cache;
    const auto count = static_cast<int32_t>(sequence.tokens.size());
    for (int32_t i = 0; i < count; ++i) {
      const int32_t position = cache.length() - count + i;
      batch.ids.push_back(sequence.tokens[i]);
      batch.positions.push_back(position);
      batch.slots.push_back(cache.SlotOf(position));
    }
    batch.cu_q.push_back(static_cast<int32_t>(batch.ids.size()));
    batch.kv_lens.push_back(cache.length());
    batch.known_lens.push_back(std::max(cache.length(), sequence.known_length));
    batch.page_table_stride =
        std::max(batch.page_table_stride, static_cast<int64_t>(cache.pages().size()));
  }
  batch.page_table.assign(sequences.size() * batch.page_table_stride, -1);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::span<const int32_t> pages = sequences[s].cache->pages();
    std::copy(pages.begin(), pages.end(),
              batch.page_table.begin() + static_cast<int64_t>(s) * batch.page_table_stride);
  }
  return batch;
}

}  // namespace mla
