// What a token costs in the cache: MHA, GQA, MQA and MLA with the heads of DeepSeek-V3.
#include <cstdio>

#include "model/accounting.h"

int main() {
  mla::MlaSpec attention;
  attention.shape = {.heads = 128,
                     .kv_lora_rank = 512,
                     .qk_nope_head_dim = 128,
                     .qk_rope_head_dim = 64,
                     .v_head_dim = 128};
  mla::ModelSpec model;
  for (int i = 0; i < 61; ++i) model.layers.push_back({attention, mla::DenseMlpSpec{}, {}, {}});

  const auto print = [&](const char* name, mla::CacheLayout layout) {
    const int64_t bytes = mla::CacheBytesPerToken(model, layout, mla::CacheFormat::kF16);
    std::printf("%-6s %6ld numbers per layer, %9ld bytes per token, %7.1f GB at 131072 tokens\n",
                name, static_cast<long>(bytes / 2 / 61), static_cast<long>(bytes),
                static_cast<double>(bytes) * 131072 / 1e9);
  };
  print("MHA", mla::CacheLayout::kMha);
  print("GQA-8", mla::CacheLayout::kGqa8);
  print("MQA", mla::CacheLayout::kMqa);
  print("MLA", mla::CacheLayout::kModel);
}
