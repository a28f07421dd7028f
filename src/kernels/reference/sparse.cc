#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/threads.h"
#include "kernels/reference/element.h"
#include "kernels/reference/reference.h"
#include "ops/attention.h"

namespace mla::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double IndexScore(const MlaIndexTopkArgs& args, const SequenceSpan& seq, int64_t token, int32_t j) {
  const int32_t page_size = args.batch.page_size;
  const std::vector<double> key = RowAt(args.cache, seq.pages[j / page_size], j % page_size);
  double score = 0;
  for (int64_t h = 0; h < args.q.dim(1); ++h) {
    score += At(args.weights, token, h) * std::max(Dot(RowAt(args.q, token, h), key), 0.0);
  }
  return std::isnan(score) ? -kInfinity : score;
}

void SelectRow(const MlaIndexTopkArgs& args, const SequenceSpan& seq, int32_t i) {
  const int64_t token = seq.q_begin + i;
  std::vector<double> scores(VisibleKeys(seq, i, args.causal));
  std::vector<int32_t> order(scores.size());
  for (size_t j = 0; j < scores.size(); ++j) {
    order[j] = static_cast<int32_t>(j);
    scores[j] = IndexScore(args, seq, token, order[j]);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  order.resize(std::min<size_t>(order.size(), args.top_k));
  std::sort(order.begin(), order.end());
  order.resize(args.top_k, -1);
  std::copy(order.begin(), order.end(),
            args.indices.as<int32_t>() + token * args.indices.stride(0));
}

void AttendRow(const MlaSparseArgs& args, const SequenceSpan& seq, int64_t token, int64_t head) {
  const int32_t* row = args.indices.as<int32_t>() + token * args.indices.stride(0);
  std::vector<int32_t> chosen;
  std::copy_if(row, row + args.indices.dim(1), std::back_inserter(chosen),
               [](int32_t j) { return j >= 0; });
  const Int8LatentLayout layout{args.kv_lora_rank,
                                static_cast<int32_t>(args.q.dim(2) - args.kv_lora_rank)};
  const int32_t page_size = args.batch.page_size;
  const std::vector<double> q = RowAt(args.q, token, head);
  std::vector<std::vector<double>> latents;
  std::vector<double> p(chosen.size());
  double max = -kInfinity;
  for (size_t n = 0; n < chosen.size(); ++n) {
    const int32_t j = chosen[n];
    latents.push_back(LatentAt(args.cache, layout, seq.pages[j / page_size], j % page_size));
    p[n] = Dot(q, latents[n]) * args.scale;
    max = std::max(max, p[n]);
  }
  double sum = 0;
  for (double& x : p) {
    x = std::exp(x - max);
    sum += x;
  }
  for (int64_t d = 0; d < args.kv_lora_rank; ++d) {
    double out = 0;
    for (size_t n = 0; n < chosen.size(); ++n) out += p[n] / sum * latents[n][d];
    SetAt(args.out, out, token, head, d);
  }
  if (args.lse.present()) {
    SetAt(args.lse, chosen.empty() ? -kInfinity : max + std::log(sum), token, head);
  }
}

}  // namespace

Status MlaIndexTopk(const MlaIndexTopkArgs& args, const Context& context) {
  for (int32_t s = 0; s < args.batch.num_seqs; ++s) {
    const SequenceSpan seq = GetSequence(args.batch, s);
    ParallelFor(context.threads, seq.q_len,
                [&](int64_t i, int) { SelectRow(args, seq, static_cast<int32_t>(i)); });
  }
  return {};
}

Status MlaSparse(const MlaSparseArgs& args, const Context& context) {
  const int64_t heads = args.q.dim(1);
  for (int32_t s = 0; s < args.batch.num_seqs; ++s) {
    const SequenceSpan seq = GetSequence(args.batch, s);
    ParallelFor(context.threads, seq.q_len * heads, [&](int64_t task, int) {
      AttendRow(args, seq, seq.q_begin + task / heads, task % heads);
    });
  }
  return {};
}

}  // namespace mla::reference
