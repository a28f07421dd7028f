// What a token costs in the cache: MHA, GQA, MQA and MLA with the heads of DeepSeek-V3.
#include <cstdio>

#include "model/accounting.h"

int main() {
  constexpr int kLayers = 61;
  mla::MlaSpec attention;
  attention.shape = {.heads = 128,
                     .kv_lora_rank = 512,
                     .qk_nope_head_dim = 128,
                     .qk_rope_head_dim = 64,
                     .v_head_dim = 128};
  mla::ModelSpec model;
  for (int i = 0; i < kLayers; ++i) {
    model.layers.push_back({attention, mla::DenseMlpSpec{}, {}, {}});
  }
  const mla::MlaShape& s = attention.shape;
  std::printf("%d layers, h = %d, r = %d, d_n = %d, d_r = %d, d_v = %d\n", kLayers, s.heads,
              s.kv_lora_rank, s.qk_nope_head_dim, s.qk_rope_head_dim, s.v_head_dim);

  const auto bytes = [&](mla::CacheLayout layout) {
    return mla::CacheBytesPerToken(model, layout, mla::CacheFormat::kF16);
  };
  const auto print = [&](const char* name, mla::CacheLayout layout) {
    const int64_t each = bytes(layout);
    std::printf("%-6s %6ld numbers per layer, %9ld bytes per token, %7.1f GB at 131072 tokens\n",
                name, static_cast<long>(each / 2 / kLayers), static_cast<long>(each),
                static_cast<double>(each) * 131072 / 1e9);
  };
  print("MHA", mla::CacheLayout::kMha);
  print("GQA-8", mla::CacheLayout::kGqa8);
  print("MQA", mla::CacheLayout::kMqa);
  print("MLA", mla::CacheLayout::kModel);

  const auto own = static_cast<double>(bytes(mla::CacheLayout::kModel));
  std::printf("MHA caches %.1f times as much as MLA\n",
              static_cast<double>(bytes(mla::CacheLayout::kMha)) / own);
  // As the paper counts: a group of GQA has a key and a value of d_n numbers.
  std::printf("MLA caches as much as GQA with %.2f groups\n",
              own / 2 / kLayers / (2.0 * s.qk_nope_head_dim));
}
