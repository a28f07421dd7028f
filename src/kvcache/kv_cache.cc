#include "kvcache/kv_cache.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/numeric.h"
#include "mla/attention.h"
#include "mla/int8_latent.h"

namespace mla {

struct KvCache::Region {
  void* data = nullptr;
  DType dtype = DType::kBF16;
  int64_t row = 0;  // elements per token
  size_t bytes = 0;
};

namespace {

Status ValidateOptions(const KvCacheOptions& options) {
  if (options.dtype != DType::kF32 && options.dtype != DType::kF16 &&
      options.dtype != DType::kBF16 && options.dtype != DType::kI8) {
    return InvalidArgument("KV cache dtype is ", DTypeName(options.dtype),
                           ", want f32, f16, bf16 or int8");
  }
  if (options.page_size < 1 || options.page_size > kMaxPageSize) {
    return InvalidArgument("KV cache page_size is ", options.page_size, ", want 1 to ",
                           kMaxPageSize);
  }
  if (options.num_pages < 1 || options.num_pages > std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("KV cache num_pages is ", options.num_pages, ", want 1 to ",
                           std::numeric_limits<int32_t>::max());
  }
  for (size_t layer = 0; layer < options.layers.size(); ++layer) {
    for (const CacheComponent& component : options.layers[layer]) {
      if (component.row < 1) {
        return InvalidArgument("KV cache layer ", layer, " component ", component.name, " has ",
                               component.row, " numbers per token, want 1 or more");
      }
      if (options.dtype == DType::kI8 && (component.name == "k" || component.name == "v")) {
        return InvalidArgument("an int8 KV cache holds MLA's latent, but layer ", layer,
                               " caches the keys and values of heads: want f32, f16 or bf16");
      }
    }
  }
  return {};
}

// How a cache of `dtype` stores a component: its elements, and how many a token has.
struct Storage {
  DType dtype;
  int64_t row;
};
Storage StorageOf(const CacheComponent& component, DType dtype) {
  if (dtype != DType::kI8) return {dtype, component.row};
  if (component.kv_lora_rank == 0) return {PlainCacheDType(dtype), component.row};
  const Int8LatentLayout layout{component.kv_lora_rank,
                                static_cast<int32_t>(component.row - component.kv_lora_rank)};
  return {DType::kI8, layout.bytes()};
}

}  // namespace

std::string_view CacheDTypeName(DType dtype) {
  return dtype == DType::kI8 ? "int8" : DTypeName(dtype);
}

KvCache::KvCache(const KvCacheOptions& options) : options_(options) {}

KvCache::~KvCache() {
  for (const auto& layer : regions_) {
    for (const Region& region : layer) munmap(region.data, region.bytes);
  }
}

Result<std::unique_ptr<KvCache>> KvCache::Create(const KvCacheOptions& options) {
  MLA_RETURN_IF_ERROR(ValidateOptions(options));
  std::unique_ptr<KvCache> cache(new KvCache(options));
  for (const LayerCacheSpec& layer : options.layers) {
    auto& regions = cache->regions_.emplace_back();
    for (const CacheComponent& component : layer) {
      const Storage storage = StorageOf(component, options.dtype);
      const auto row_bytes = CheckedMul(storage.row, static_cast<int64_t>(SizeOf(storage.dtype)));
      const auto page_bytes = CheckedMul(row_bytes.value_or(-1), options.page_size);
      const auto bytes = CheckedMul(page_bytes.value_or(-1), options.num_pages);
      if (!row_bytes || !page_bytes || !bytes) {
        return InvalidArgument("KV cache of ", options.num_pages, " pages of ", options.page_size,
                               " tokens of ", component.row, " numbers is too large");
      }
      // NORESERVE: pages that no token reaches cost nothing.
      void* data = mmap(nullptr, *bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (data == MAP_FAILED) {
        return Error{ErrorCode::kOutOfMemory,
                     Concat("cannot reserve ", *bytes, " bytes of KV cache: ", std::strerror(errno),
                            "; a smaller --context needs less")};
      }
      regions.push_back({data, storage.dtype, storage.row, static_cast<size_t>(*bytes)});
      cache->bytes_per_token_ += *row_bytes;
    }
  }
  cache->free_.reserve(options.num_pages);
  for (int64_t page = options.num_pages - 1; page >= 0; --page) {
    cache->free_.push_back(static_cast<int32_t>(page));
  }
  return cache;
}

Tensor KvCache::Component(size_t layer, size_t component) const {
  const Region& region = regions_[layer][component];
  return Tensor(region.data, region.dtype, {options_.num_pages, options_.page_size, region.row});
}

CachedSequence::CachedSequence(CachedSequence&& other) noexcept
    : cache_(other.cache_),
      length_(std::exchange(other.length_, 0)),
      pages_(std::exchange(other.pages_, {})) {}

CachedSequence& CachedSequence::operator=(CachedSequence&& other) noexcept {
  if (this != &other) {
    Truncate(0);
    cache_ = other.cache_;
    length_ = std::exchange(other.length_, 0);
    pages_ = std::exchange(other.pages_, {});
  }
  return *this;
}

Status CachedSequence::Extend(int32_t tokens) {
  MLA_CHECK(tokens >= 0 && tokens <= std::numeric_limits<int32_t>::max() - length_, "tokens ",
            tokens);
  const int64_t want = CeilDiv(int64_t{length_} + tokens, cache_->options_.page_size);
  const int64_t more = want - static_cast<int64_t>(pages_.size());
  if (more > cache_->free_pages()) {
    return Error{ErrorCode::kOutOfPages,
                 Concat("the KV cache has ", cache_->free_pages(), " of ",
                        cache_->options_.num_pages, " pages free, ", more, " are needed")};
  }
  for (int64_t i = 0; i < more; ++i) {
    pages_.push_back(cache_->free_.back());
    cache_->free_.pop_back();
  }
  length_ += tokens;
  return {};
}

void CachedSequence::Truncate(int32_t length) {
  MLA_CHECK(length >= 0 && length <= length_, "truncate to ", length, " of ", length_);
  const auto keep =
      static_cast<size_t>(length == 0 ? 0 : CeilDiv(length, cache_->options_.page_size));
  while (pages_.size() > keep) {
    cache_->free_.push_back(pages_.back());
    pages_.pop_back();
  }
  length_ = length;
}

}  // namespace mla
