// The KV cache: per layer a set of named components, stored in pages that sequences take from one
// pool. A page id means the same page_size tokens in every layer and component, so a sequence has
// one page list.
//
// An MLA layer has one component, "latent": kv_lora_rank + qk_rope_head_dim numbers per token
// ([c_kv ; k_pe], k_pe after RoPE, in the checkpoint's element order) and nothing else; one that
// chooses the tokens it attends to has its indexer's keys beside it, "index_k". An MHA, GQA or MQA
// layer has "k" and "v", kv_heads * head_dim numbers each.
//
// In an int8 cache latents are int8 latents (mla/int8_latent.h) and index_k is bf16; "k" and "v" it
// does not hold.
#ifndef MLA_KVCACHE_KV_CACHE_H_
#define MLA_KVCACHE_KV_CACHE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mla/result.h"
#include "mla/tensor.h"

namespace mla {

struct CacheComponent {
  std::string name;          // "latent", "index_k", "k", "v"
  int64_t row = 0;           // numbers per token
  int32_t kv_lora_rank = 0;  // how many of a latent's are c_kv; 0: not a latent
};
using LayerCacheSpec = std::vector<CacheComponent>;

struct KvCacheOptions {
  std::vector<LayerCacheSpec> layers;
  DType dtype = DType::kBF16;  // f32, f16 or bf16, or i8: int8 latents
  int32_t page_size = 64;      // tokens per page, 1 to 256
  int64_t num_pages = 0;       // of the pool
};

// Of what is no latent in a cache of this dtype: bf16 beside int8 latents, else the same.
inline DType PlainCacheDType(DType dtype) { return dtype == DType::kI8 ? DType::kBF16 : dtype; }

// What users call a cache of this dtype: "f32", "f16", "bf16", "int8".
std::string_view CacheDTypeName(DType dtype);

// Memory is reserved at creation and committed by the system page by page as tokens are written.
// Not thread-safe; a cache outlives the sequences taken from it.
class KvCache {
 public:
  // kInvalidArgument for options out of range, sizes that overflow, or an int8 cache of layers
  // without a latent; kOutOfMemory if the address space cannot be reserved.
  static Result<std::unique_ptr<KvCache>> Create(const KvCacheOptions& options);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // [num_pages, page_size, row] of one layer's component; an int8 latent's row is its bytes.
  Tensor Component(size_t layer, size_t component) const;

  const KvCacheOptions& options() const { return options_; }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  int64_t bytes_per_token() const { return bytes_per_token_; }  // over all layers and components
  int64_t bytes_per_page() const { return bytes_per_token_ * options_.page_size; }
  // Of the pages that sequences hold now.
  int64_t bytes_in_use() const { return (options_.num_pages - free_pages()) * bytes_per_page(); }

 private:
  friend class CachedSequence;
  struct Region;  // one component's mapping

  explicit KvCache(const KvCacheOptions& options);

  KvCacheOptions options_;
  int64_t bytes_per_token_ = 0;
  std::vector<std::vector<Region>> regions_;  // [layer][component]
  std::vector<int32_t> free_;                 // page ids, next to be taken last
};

// The cached tokens of one sequence. Gives its pages back when destroyed.
class CachedSequence {
 public:
  explicit CachedSequence(KvCache* cache) : cache_(cache) {}
  ~CachedSequence() { Truncate(0); }
  CachedSequence(CachedSequence&& other) noexcept;
  CachedSequence& operator=(CachedSequence&& other) noexcept;

  int32_t length() const { return length_; }                 // tokens
  std::span<const int32_t> pages() const { return pages_; }  // ceil(length / page_size) ids
  int64_t bytes() const { return length_ * cache_->bytes_per_token(); }  // of its tokens

  // Makes room for `tokens` more tokens, whose rows are then written through SlotOf. On
  // kOutOfPages the sequence is unchanged: free another sequence and retry.
  Status Extend(int32_t tokens);

  // Forgets the tokens from `length` on. 0 <= length <= length().
  void Truncate(int32_t length);

  // page * page_size + offset of token i: its row in every component.
  int64_t SlotOf(int32_t i) const {
    const int32_t page_size = cache_->options().page_size;
    return int64_t{pages_[i / page_size]} * page_size + i % page_size;
  }

 private:
  KvCache* cache_;
  int32_t length_ = 0;
  std::vector<int32_t> pages_;
};

}  // namespace mla

#endif  // MLA_KVCACHE_KV_CACHE_H_
