// What the two forms of MLA cost in one layer of DeepSeek-V3, and where one overtakes the other.
#include <cstdint>
#include <cstdio>

#include "dispatch/mla_form.h"

namespace {

constexpr mla::MlaShape kShape = {.heads = 128,
                                  .kv_lora_rank = 512,
                                  .qk_nope_head_dim = 128,
                                  .qk_rope_head_dim = 64,
                                  .v_head_dim = 128};

double Absorbed(int64_t queries, int64_t keys) {
  return mla::MlaFlops(mla::MlaForm::kAbsorbed, kShape, queries, keys);
}
double Expanded(int64_t queries, int64_t keys) {
  return mla::MlaFlops(mla::MlaForm::kExpanded, kShape, queries, keys);
}

}  // namespace

int main() {
  constexpr int64_t kTokens = 4096;
  constexpr int64_t kQueries[] = {1, 16, 128, 512, 4096};
  for (const int64_t queries : kQueries) {
    std::printf("%4ld new of %ld tokens: absorbed %8.2f GFLOP, expanded %8.2f GFLOP\n",
                static_cast<long>(queries), static_cast<long>(kTokens),
                Absorbed(queries, kTokens) / 1e9, Expanded(queries, kTokens) / 1e9);
  }
  int64_t queries = 1;
  while (Absorbed(queries, kTokens) <= Expanded(queries, kTokens)) ++queries;
  std::printf("expanded takes fewer operations from %ld new of %ld tokens on\n",
              static_cast<long>(queries), static_cast<long>(kTokens));

  // Decode: operations for each byte read of a cache in 16 bits. Each key and value is read once,
  // and serves all heads that share it.
  constexpr double kKeyAndValue =
      kShape.qk_nope_head_dim + kShape.qk_rope_head_dim + kShape.v_head_dim;
  const double of_head = 2 * kKeyAndValue / (2 * kKeyAndValue);
  const double of_latent =
      (Absorbed(1, 2) - Absorbed(1, 1)) / (2.0 * (kShape.kv_lora_rank + kShape.qk_rope_head_dim));
  std::printf("operations per byte of cache: MHA %.0f, GQA-8 %.0f, MQA %.0f, absorbed MLA %.0f\n",
              of_head, of_head * kShape.heads / 8, of_head * kShape.heads, of_latent);
}
