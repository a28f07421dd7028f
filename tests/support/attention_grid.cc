// The shapes every attention kernel is tested on.
#include <random>

#include "support/attention_case.h"

namespace mla::test {
namespace {

AttentionCase Absorbed(int32_t heads, int32_t rank, int32_t rope, int32_t page,
                       std::vector<int32_t> q_lens, std::vector<int32_t> kv_lens,
                       DType cache = DType::kBF16) {
  AttentionCase c;
  c.op = Operator::kMlaAbsorbed;
  c.heads = heads;
  c.kv_lora_rank = rank;
  c.rope_dim = rope;
  c.page_size = page;
  c.q_lens = std::move(q_lens);
  c.kv_lens = std::move(kv_lens);
  c.cache = cache;
  return c;
}

AttentionCase Expanded(int32_t heads, int32_t rank, int32_t d_n, int32_t rope, int32_t d_v,
                       int32_t page, std::vector<int32_t> q_lens, std::vector<int32_t> kv_lens,
                       DType cache = DType::kBF16) {
  AttentionCase c = Absorbed(heads, rank, rope, page, std::move(q_lens), std::move(kv_lens), cache);
  c.op = Operator::kMlaExpanded;
  c.d_n = d_n;
  c.d_v = d_v;
  return c;
}

AttentionCase Gqa(int32_t heads, int32_t kv_heads, int32_t d_k, int32_t d_v, int32_t page,
                  std::vector<int32_t> q_lens, std::vector<int32_t> kv_lens,
                  DType cache = DType::kBF16) {
  AttentionCase c = Absorbed(heads, 0, 0, page, std::move(q_lens), std::move(kv_lens), cache);
  c.op = Operator::kGqa;
  c.kv_heads = kv_heads;
  c.d_n = d_k;
  c.d_v = d_v;
  return c;
}

AttentionCase NonCausal(AttentionCase c) {
  c.causal = false;
  return c;
}
AttentionCase Strided(AttentionCase c) {
  c.strided = true;
  return c;
}
AttentionCase InMajor(AttentionCase c) {
  c.in_major_weights = true;
  return c;
}
AttentionCase WithoutLse(AttentionCase c) {
  c.with_lse = false;
  return c;
}

std::vector<AttentionCase> BaseGrid() {
  constexpr DType kF32 = DType::kF32, kF16 = DType::kF16;
  return {
      // Published MLA shapes: decode, a chunk of speculation, a partial last page.
      Absorbed(16, 512, 64, 64, {1}, {300}),
      Absorbed(128, 512, 64, 64, {1}, {65}),
      Absorbed(20, 512, 64, 64, {2}, {127}, kF16),
      Absorbed(3, 512, 0, 64, {4, 1}, {63, 64}, kF32),
      Absorbed(5, 256, 64, 256, {1, 3}, {255, 257}),
      Absorbed(16, 256, 32, 16, {17}, {127}, kF16),
      // Lengths around a page and around a tile of keys, nothing cached, no queries, more queries
      // than keys; decode, chunks and prefill in one batch.
      Absorbed(8, 64, 16, 16, {1, 1, 1, 1, 1, 0, 1, 4}, {0, 1, 2, 15, 16, 5, 17, 1}),
      Absorbed(8, 64, 16, 64, {1, 17, 0, 8, 64}, {300, 17, 0, 127, 64}),
      Absorbed(8, 64, 16, 256, {1, 5, 3}, {255, 256, 257}, kF32),
      Absorbed(1, 64, 16, 3, {1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8}, kF16),
      // Divided keys: 1,100 and more of them, alone and beside short sequences.
      Absorbed(8, 64, 16, 64, {1}, {1100}),
      Absorbed(3, 64, 16, 1, {2, 64, 1}, {1100, 127, 2}, kF32),
      Absorbed(8, 64, 16, 16, {17, 1}, {1100, 513}, kF16),
      // Dims that are multiples of nothing.
      Absorbed(5, 20, 8, 3, {1, 7}, {127, 65}),
      Absorbed(3, 7, 2, 1, {1, 8}, {300, 9}, kF16),
      Absorbed(1, 1, 0, 256, {3}, {300}, kF32),
      Absorbed(1, 33, 1, 16, {6}, {67}),
      NonCausal(Absorbed(8, 64, 16, 16, {5, 9}, {127, 3})),
      NonCausal(Absorbed(3, 7, 2, 3, {3}, {600})),
      Strided(Absorbed(8, 64, 16, 16, {5, 1}, {127, 600})),
      Strided(NonCausal(Absorbed(3, 7, 2, 3, {3, 2}, {5, 0}, kF32))),
      WithoutLse(Absorbed(8, 64, 16, 16, {5, 1}, {127, 600})),

      Expanded(3, 512, 128, 64, 128, 64, {7}, {130}),
      Expanded(8, 64, 32, 16, 32, 64, {64, 1, 17}, {64, 300, 127}),
      Expanded(8, 64, 32, 16, 32, 16, {3, 0, 5, 2}, {300, 4, 2, 0}, kF16),
      Expanded(5, 64, 32, 16, 32, 256, {17, 300}, {257, 300}, kF32),
      Expanded(1, 20, 12, 4, 7, 3, {8, 1}, {127, 700}),
      Expanded(3, 20, 12, 4, 7, 1, {70, 1}, {300, 1}, kF32),
      Expanded(20, 9, 5, 3, 9, 16, {4, 65}, {15, 65}),
      Expanded(2, 33, 11, 0, 35, 16, {5}, {600}, kF16),
      InMajor(Expanded(8, 64, 32, 16, 32, 64, {17}, {127})),
      InMajor(Expanded(3, 21, 12, 4, 7, 16, {5, 3}, {66, 300}, kF32)),
      NonCausal(Expanded(3, 20, 12, 4, 7, 16, {9, 300}, {300, 9})),
      Strided(Expanded(8, 64, 32, 16, 32, 64, {65, 1}, {600, 513})),
      WithoutLse(Expanded(8, 64, 32, 16, 32, 64, {17}, {127}, kF16)),

      Gqa(16, 16, 128, 128, 16, {1, 3}, {127, 65}),
      Gqa(16, 2, 64, 64, 64, {1, 17}, {300, 64}),
      Gqa(20, 5, 80, 64, 64, {65}, {127}, kF16),
      Gqa(8, 1, 48, 48, 256, {1, 2}, {1100, 257}, kF32),
      Gqa(3, 3, 9, 7, 3, {8, 1, 0, 5}, {300, 1, 7, 2}),
      Gqa(1, 1, 1, 1, 1, {1}, {2}, kF16),
      NonCausal(Gqa(6, 2, 33, 31, 16, {70}, {300})),
      Strided(Gqa(6, 3, 17, 40, 16, {5, 1}, {64, 600}, kF32)),
      WithoutLse(Gqa(6, 3, 17, 40, 16, {5, 1}, {64, 600})),
  };
}

}  // namespace

std::vector<AttentionCase> AttentionGrid() {
  std::vector<AttentionCase> grid = BaseGrid();
  // The latents of the bf16 cases as int8, too; and a rank whose last group is partial.
  const size_t numbers = grid.size();
  for (size_t i = 0; i < numbers; ++i) {
    if (grid[i].op == Operator::kGqa || grid[i].cache != DType::kBF16) continue;
    grid.push_back(grid[i]);
    grid.back().cache = DType::kI8;
  }
  grid.push_back(Absorbed(8, 200, 10, 16, {3, 1}, {150, 600}, DType::kI8));
  grid.push_back(Expanded(3, 130, 12, 3, 7, 16, {5, 2}, {150, 70}, DType::kI8));
  for (size_t i = 0; i < grid.size(); ++i) grid[i].seed = static_cast<uint32_t>(i + 1);
  return grid;
}

AttentionCase RandomAttentionCase(uint32_t seed) {
  std::mt19937 rng(seed);
  const auto pick = [&](std::initializer_list<int32_t> values) {
    return values.begin()[rng() % values.size()];
  };
  const auto upto = [&](int32_t n) { return static_cast<int32_t>(rng() % n) + 1; };
  AttentionCase c;
  c.op = static_cast<Operator>(rng() % 3);
  c.kv_heads = c.op == Operator::kGqa ? pick({1, 2, 3}) : 1;
  c.heads = c.kv_heads * pick({1, 2, 3, 5, 13});
  c.kv_lora_rank = upto(48);
  c.rope_dim = pick({0, 1, 2, 8, 16});
  c.d_n = upto(40);
  c.d_v = upto(40);
  c.page_size = pick({1, 2, 3, 7, 16, 64, 200, 256});
  const int32_t num_seqs = upto(4);
  c.q_lens.clear();
  c.kv_lens.clear();
  for (int32_t s = 0; s < num_seqs; ++s) {
    c.q_lens.push_back(pick({0, 1, 1, 1, 2, 3, 5, upto(30)}));
    c.kv_lens.push_back(pick({0, 1, c.q_lens.back(), upto(64), upto(150), upto(300)}));
  }
  if (seed % 16 == 0) c.kv_lens.back() = 500 + upto(300);
  c.cache = static_cast<DType>(rng() % 3);
  c.causal = rng() % 4 != 0;
  c.strided = rng() % 2 == 0;
  c.in_major_weights = rng() % 3 == 0;
  c.with_lse = rng() % 4 != 0;
  if (seed % 3 == 0 && c.op != Operator::kGqa) {
    c.cache = DType::kI8;
    if (seed % 2 == 0) c.kv_lora_rank += 110;  // two groups, or one that is nearly full
  }
  c.seed = seed;
  return c;
}

}  // namespace mla::test
