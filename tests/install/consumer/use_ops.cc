// The operators from C++, with nothing but what is installed: attention with threads and scratch
// memory of the caller's.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "mla/attention.h"
#include "mla/resources.h"

int main() {
  constexpr int kHeads = 2, kRank = 4, kRope = 2, kLen = 5, kPage = 8;
  std::vector<float> q(kHeads * (kRank + kRope)), cache(kPage * (kRank + kRope), 3.0F);
  std::vector<float> out(kHeads * kRank, -1.0F), lse(kHeads);
  const int32_t cu_q[] = {0, 1}, kv_lens[] = {kLen}, page_table[] = {0};

  mla::MlaAbsorbedArgs args;
  args.q = {q.data(), mla::DType::kF32, {1, kHeads, kRank + kRope}};
  args.cache = {cache.data(), mla::DType::kF32, {1, kPage, kRank + kRope}};
  args.batch = {1, cu_q, kv_lens, page_table, 1, kPage};
  args.kv_lora_rank = kRank;
  args.scale = 1;
  args.out = {out.data(), mla::DType::kF32, {1, kHeads, kRank}};
  args.lse = {lse.data(), mla::DType::kF32, {1, kHeads}};

  mla::Result<mla::ThreadPoolPtr> threads = mla::MakeThreadPool(2);
  if (!threads.ok()) return 1;
  const mla::WorkspacePtr workspace = mla::MakeWorkspace();
  mla::Context context;
  context.threads = threads->get();
  context.workspace = workspace.get();
  if (!mla::MlaAbsorbed(args, context).ok()) return 1;
  for (const float x : out) {
    if (x != 3.0F) return 1;
  }
  if (std::fabs(lse[0] - std::log(5.0F)) > 1e-5F) return 1;
  std::printf("use_ops: passed\n");
  return 0;
}
