#include "kvcache/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

namespace mla {
namespace {

KvCacheOptions Options(int32_t page_size, int64_t num_pages) {
  return {.layers = {{{"latent", 576}}, {{"k", 24}, {"v", 16}}},
          .dtype = DType::kBF16,
          .page_size = page_size,
          .num_pages = num_pages};
}

std::unique_ptr<KvCache> Make(const KvCacheOptions& options) {
  Result<std::unique_ptr<KvCache>> cache = KvCache::Create(options);
  EXPECT_TRUE(cache.ok()) << cache.message();
  return *std::move(cache);
}

TEST(KvCache, BytesAreThoseOfTheRowsInTheirDtype) {
  EXPECT_EQ(Make(Options(64, 4))->bytes_per_token(), 2 * (576 + 24 + 16));
  KvCacheOptions f32 = Options(64, 4);
  f32.dtype = DType::kF32;
  EXPECT_EQ(Make(f32)->bytes_per_token(), 4 * (576 + 24 + 16));
}

TEST(KvCache, ComponentsAreDistinctMemoryOfTheRightShape) {
  const auto cache = Make(Options(3, 5));
  std::set<void*> seen;
  for (const auto& [layer, component, row] : {std::tuple{0, 0, 576}, {1, 0, 24}, {1, 1, 16}}) {
    const Tensor pages = cache->Component(layer, component);
    EXPECT_EQ(pages.ShapeString(), "[5, 3, " + std::to_string(row) + "]");
    EXPECT_TRUE(seen.insert(pages.data()).second);
    std::fill_n(pages.as<uint16_t>(), pages.num_elements(), uint16_t{1});  // all of it is mapped
  }
}

TEST(KvCache, SequencesTakePagesAndGiveThemBack) {
  const auto cache = Make(Options(4, 6));
  CachedSequence a(cache.get());
  {
    CachedSequence b(cache.get());
    ASSERT_TRUE(a.Extend(5).ok());
    ASSERT_TRUE(b.Extend(4).ok());
    EXPECT_EQ(a.pages().size(), 2U);
    EXPECT_EQ(b.pages().size(), 1U);
    EXPECT_EQ(cache->free_pages(), 3);
    EXPECT_EQ(cache->bytes_in_use(), 3 * cache->bytes_per_page());
    std::set<int64_t> slots;
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(slots.insert(a.SlotOf(i)).second);
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(slots.insert(b.SlotOf(i)).second);
    ASSERT_TRUE(a.Extend(3).ok());  // fills the second page: no new one
    EXPECT_EQ(a.pages().size(), 2U);
  }
  EXPECT_EQ(cache->free_pages(), 4);
  a.Truncate(4);
  EXPECT_EQ(a.pages().size(), 1U);
  a.Truncate(0);
  EXPECT_EQ(cache->free_pages(), 6);
}

TEST(KvCache, OutOfPagesLeavesTheSequenceAsItWas) {
  const auto cache = Make(Options(4, 2));
  CachedSequence a(cache.get());
  ASSERT_TRUE(a.Extend(3).ok());
  const Status status = a.Extend(6);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kOutOfPages);
  EXPECT_EQ(a.length(), 3);
  EXPECT_EQ(cache->free_pages(), 1);
  EXPECT_TRUE(a.Extend(5).ok());
}

TEST(KvCache, MovedSequencesOwnTheirPagesOnce) {
  const auto cache = Make(Options(4, 4));
  CachedSequence a(cache.get());
  ASSERT_TRUE(a.Extend(8).ok());
  CachedSequence b(std::move(a));
  EXPECT_EQ(b.length(), 8);
  CachedSequence c(cache.get());
  ASSERT_TRUE(c.Extend(4).ok());
  c = std::move(b);
  EXPECT_EQ(cache->free_pages(), 2);
  c.Truncate(0);
  EXPECT_EQ(cache->free_pages(), 4);
}

TEST(KvCache, BadOptionsAreRefused) {
  for (const int32_t page_size : {0, -1, 257}) {
    EXPECT_FALSE(KvCache::Create(Options(page_size, 4)).ok()) << page_size;
  }
  EXPECT_FALSE(KvCache::Create(Options(64, 0)).ok());
  EXPECT_FALSE(KvCache::Create(Options(64, int64_t{1} << 31)).ok());
  KvCacheOptions wide = Options(256, std::numeric_limits<int32_t>::max());
  wide.layers[0][0].row = std::numeric_limits<int64_t>::max() / 1000;
  EXPECT_FALSE(KvCache::Create(wide).ok());
  KvCacheOptions integers = Options(64, 4);
  integers.dtype = DType::kI32;
  EXPECT_FALSE(KvCache::Create(integers).ok());
}

TEST(KvCache, Int8CachesHoldLatentsAndKeepTheRestInBf16) {
  KvCacheOptions options = Options(64, 4);
  options.layers = {{{"latent", 576, 512}, {"index_k", 128}}, {{"latent", 80, 64}}};
  options.dtype = DType::kI8;
  const auto cache = Make(options);
  EXPECT_EQ(cache->bytes_per_token(), 656 + 2 * 128 + (64 + 4 + 32));
  EXPECT_EQ(cache->Component(0, 0).dtype(), DType::kI8);
  EXPECT_EQ(cache->Component(0, 0).ShapeString(), "[4, 64, 656]");
  EXPECT_EQ(cache->Component(0, 1).dtype(), DType::kBF16);
  EXPECT_EQ(cache->Component(0, 1).ShapeString(), "[4, 64, 128]");
  EXPECT_EQ(CacheDTypeName(options.dtype), "int8");
  options.layers.push_back({{"k", 24}, {"v", 16}});
  const auto refused = KvCache::Create(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.message().find("layer 2 caches the keys and values of heads: want f32"),
            std::string::npos)
      << refused.message();
}

// Reserved, not committed: a pool for a long context costs what is written.
TEST(KvCache, PoolsBeyondMemoryCanBeReserved) {
  const auto cache = Make(Options(64, int64_t{1} << 24));
  const Tensor pages = cache->Component(0, 0);
  EXPECT_GT(pages.num_elements() * 2, int64_t{1} << 40);
  auto* last = pages.as<uint16_t>() + pages.num_elements() - 1;
  *last = 7;
  EXPECT_EQ(*last, 7);
}

}  // namespace
}  // namespace mla
