#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/threads.h"
#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"

namespace mla::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// softmax(scores) in place; returns the natural log of the sum of exponentials. No scores: -inf. A
// NaN makes all of them NaN.
double Softmax(std::vector<double>& scores) {
  for (double s : scores) {
    if (!std::isnan(s)) continue;
    std::fill(scores.begin(), scores.end(), s);
    return s;
  }
  double max = -kInfinity;
  for (double s : scores) max = std::max(max, s);
  if (scores.empty() || max == -kInfinity) return -kInfinity;
  double sum = 0;
  for (double& s : scores) {
    s = std::exp(s - max);
    sum += s;
  }
  for (double& s : scores) s /= sum;
  return max + std::log(sum);
}

// The page and the offset in it of cached token j.
struct Slot {
  int64_t page, offset;
};
Slot FindSlot(const SequenceSpan& seq, int32_t page_size, int32_t j) {
  return {seq.pages[j / page_size], j % page_size};
}

void StoreRow(const Tensor& out, const Tensor& lse, int64_t token, int64_t head,
              const std::vector<double>& row, double row_lse) {
  for (size_t d = 0; d < row.size(); ++d) {
    SetAt(out, row[d], token, head, static_cast<int64_t>(d));
  }
  if (lse.present()) SetAt(lse, row_lse, token, head);
}

// Runs row(seq, token index in the sequence, head) for every query row of the batch.
template <typename Fn>
void ForEachRow(const PagedBatch& batch, int64_t heads, const Context& context, const Fn& row) {
  for (int32_t s = 0; s < batch.num_seqs; ++s) {
    const SequenceSpan seq = GetSequence(batch, s);
    ParallelFor(context.threads, seq.q_len * heads, [&](int64_t task, int) {
      row(seq, static_cast<int32_t>(task / heads), task % heads);
    });
  }
}

}  // namespace

Status MlaAbsorbed(const MlaAbsorbedArgs& args, const Context& context) {
  const int64_t latent_dim = args.q.dim(2);
  const Int8LatentLayout layout{args.kv_lora_rank,
                                static_cast<int32_t>(latent_dim - args.kv_lora_rank)};
  ForEachRow(args.batch, args.q.dim(1), context,
             [&](const SequenceSpan& seq, int32_t i, int64_t head) {
               const int64_t token = seq.q_begin + i;
               const std::vector<double> q = RowAt(args.q, token, head);
               std::vector<double> p(VisibleKeys(seq, i, args.causal));
               std::vector<std::vector<double>> latents;
               for (size_t j = 0; j < p.size(); ++j) {
                 const Slot slot = FindSlot(seq, args.batch.page_size, static_cast<int32_t>(j));
                 latents.push_back(LatentAt(args.cache, layout, slot.page, slot.offset));
                 p[j] = Dot(q, latents[j]) * args.scale;
               }
               const double lse = Softmax(p);
               std::vector<double> out(args.kv_lora_rank);
               for (size_t j = 0; j < p.size(); ++j) {
                 for (size_t d = 0; d < out.size(); ++d) out[d] += p[j] * latents[j][d];
               }
               StoreRow(args.out, args.lse, token, head, out, lse);
             });
  return {};
}

Status MlaExpanded(const MlaExpandedArgs& args, const Context& context) {
  const int64_t d_n = args.w_uk.dim(1);
  const int64_t rank = args.w_uk.dim(2);
  const int64_t d_r = args.q.dim(2) - d_n;
  const int64_t d_v = args.w_uv.dim(1);
  const Int8LatentLayout layout{static_cast<int32_t>(rank), static_cast<int32_t>(d_r)};
  for (int32_t s = 0; s < args.batch.num_seqs; ++s) {
    const SequenceSpan seq = GetSequence(args.batch, s);
    ParallelFor(context.threads, args.q.dim(1), [&](int64_t head, int) {
      // This head's keys and values, as an MHA cache would hold them.
      std::vector<std::vector<double>> k(seq.kv_len, std::vector<double>(d_n + d_r));
      std::vector<std::vector<double>> v(seq.kv_len, std::vector<double>(d_v));
      std::vector<std::vector<double>> latents;
      for (int32_t j = 0; j < seq.kv_len; ++j) {
        const Slot slot = FindSlot(seq, args.batch.page_size, j);
        latents.push_back(LatentAt(args.cache, layout, slot.page, slot.offset));
        std::copy(latents[j].begin() + rank, latents[j].end(), k[j].begin() + d_n);
      }
      for (int64_t d = 0; d < d_n; ++d) {
        const std::vector<double> w = RowAt(args.w_uk, head, d);
        for (int32_t j = 0; j < seq.kv_len; ++j) k[j][d] = Dot(w, latents[j]);
      }
      for (int64_t d = 0; d < d_v; ++d) {
        const std::vector<double> w = RowAt(args.w_uv, head, d);
        for (int32_t j = 0; j < seq.kv_len; ++j) v[j][d] = Dot(w, latents[j]);
      }
      for (int32_t i = 0; i < seq.q_len; ++i) {
        const int64_t token = seq.q_begin + i;
        const std::vector<double> q = RowAt(args.q, token, head);
        std::vector<double> p(VisibleKeys(seq, i, args.causal));
        for (size_t j = 0; j < p.size(); ++j) p[j] = Dot(q, k[j]) * args.scale;
        const double lse = Softmax(p);
        std::vector<double> out(d_v);
        for (size_t j = 0; j < p.size(); ++j) {
          for (int64_t d = 0; d < d_v; ++d) out[d] += p[j] * v[j][d];
        }
        StoreRow(args.out, args.lse, token, head, out, lse);
      }
    });
  }
  return {};
}

Status Gqa(const GqaArgs& args, const Context& context) {
  const int64_t heads_per_kv = args.q.dim(1) / args.k_cache.dim(2);
  ForEachRow(args.batch, args.q.dim(1), context,
             [&](const SequenceSpan& seq, int32_t i, int64_t head) {
               const int64_t token = seq.q_begin + i;
               const int64_t kv_head = head / heads_per_kv;
               const std::vector<double> q = RowAt(args.q, token, head);
               std::vector<double> p(VisibleKeys(seq, i, args.causal));
               for (size_t j = 0; j < p.size(); ++j) {
                 const Slot slot = FindSlot(seq, args.batch.page_size, static_cast<int32_t>(j));
                 p[j] = Dot(q, RowAt(args.k_cache, slot.page, slot.offset, kv_head)) * args.scale;
               }
               const double lse = Softmax(p);
               std::vector<double> out(args.v_cache.dim(3));
               for (size_t j = 0; j < p.size(); ++j) {
                 const Slot slot = FindSlot(seq, args.batch.page_size, static_cast<int32_t>(j));
                 const std::vector<double> v = RowAt(args.v_cache, slot.page, slot.offset, kv_head);
                 for (size_t d = 0; d < out.size(); ++d) out[d] += p[j] * v[d];
               }
               StoreRow(args.out, args.lse, token, head, out, lse);
             });
  return {};
}

Status MergePartials(const MergeArgs& args, const Context& context) {
  const int64_t parts = args.part_out.dim(0);
  const int64_t heads = args.part_out.dim(2);
  ParallelFor(context.threads, args.part_out.dim(1) * heads, [&](int64_t row, int) {
    const int64_t token = row / heads;
    const int64_t head = row % heads;
    std::vector<double> weights(parts);
    for (int64_t p = 0; p < parts; ++p) weights[p] = At(args.part_lse, p, token, head);
    const double lse = Softmax(weights);
    std::vector<double> out(args.part_out.dim(3));
    for (int64_t p = 0; p < parts && lse != -kInfinity; ++p) {
      if (At(args.part_lse, p, token, head) == -kInfinity) continue;  // 0 * NaN would be NaN
      for (size_t d = 0; d < out.size(); ++d) {
        out[d] += weights[p] * At(args.part_out, p, token, head, static_cast<int64_t>(d));
      }
    }
    StoreRow(args.out, args.lse, token, head, out, lse);
  });
  return {};
}

}  // namespace mla::reference
