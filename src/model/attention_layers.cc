#include <algorithm>

#include "base/check.h"
#include "dispatch/mla_cost.h"
#include "mla/attention.h"
#include "mla/elementwise.h"
#include "mla/linear.h"
#include "mla/sparse.h"
#include "model/layers.h"

namespace mla {
namespace {

// A [rows, heads * dim] buffer seen as [rows, heads, dim].
Tensor AsHeads(const Tensor& t, int64_t heads) {
  const int64_t dim = t.dim(1) / heads;
  return Tensor(t.data(), t.dtype(), {t.dim(0), heads, dim}, {t.stride(0), dim, 1});
}

// A [heads, rows, rank] weight seen as [heads, rank, rows]: the absorption multiplies from the
// other side.
ConstTensor TransposeInner(const ConstTensor& w) {
  return ConstTensor(w.data(), w.dtype(), {w.dim(0), w.dim(2), w.dim(1)},
                     {w.stride(0), w.stride(2), w.stride(1)}, w.device());
}

// [num_pages, page_size, row] as [num_pages * page_size, row].
Tensor AsSlots(const Tensor& pages) {
  return Tensor(pages.data(), pages.dtype(), {pages.dim(0) * pages.dim(1), pages.dim(2)});
}

Status AddProjection(const LinearWeight& o, const ConstTensor& x, const Tensor& hidden,
                     const Context& context) {
  const LinearTarget target{o.w, o.bias, hidden};
  return Linear({.x = x, .targets = {&target, 1}, .accumulate = true}, context);
}

// RMSNorm of a latent, times its factor, in place.
Status NormLatent(const MlaSpec& spec, const Tensor& latent, const ConstTensor& w, float scale,
                  const Context& context) {
  MLA_RETURN_IF_ERROR(
      RmsNorm({.x = latent, .w = w, .eps = spec.latent_norm_eps, .y = latent}, context));
  if (scale == 1) return {};
  return Scale({.x = latent, .scale = scale, .y = latent}, context);
}

// q [tokens, heads * (d_n + d_r)] and kv [tokens, r + d_r], both before RoPE, c_kv normed. q_latent
// [tokens, q_lora_rank], unless that is 0: normed.
Status ProjectMla(const MlaSpec& spec, const MlaWeights& weights, const ConstTensor& x,
                  const Tensor& q, const Tensor& q_latent, const Tensor& kv,
                  const StepContext& step) {
  const LinearTarget kv_target{weights.kv_a.w, weights.kv_a.bias, kv};
  if (spec.q_lora_rank == 0) {
    const LinearTarget targets[] = {{weights.q.w, weights.q.bias, q}, kv_target};
    MLA_RETURN_IF_ERROR(Linear({.x = x, .targets = targets}, step.context));
  } else {
    const LinearTarget targets[] = {{weights.q_a.w, weights.q_a.bias, q_latent}, kv_target};
    MLA_RETURN_IF_ERROR(Linear({.x = x, .targets = targets}, step.context));
    MLA_RETURN_IF_ERROR(
        NormLatent(spec, q_latent, weights.q_a_norm, spec.q_latent_scale, step.context));
    const LinearTarget q_target{weights.q_b.w, weights.q_b.bias, q};
    MLA_RETURN_IF_ERROR(Linear({.x = q_latent, .targets = {&q_target, 1}}, step.context));
  }
  return NormLatent(spec, kv.Slice(1, 0, spec.shape.kv_lora_rank), weights.kv_a_norm,
                    spec.kv_latent_scale, step.context);
}

// One run of sequences in one form: q (before RoPE) -> out [tokens, heads, d_v].
struct MlaRun {
  const MlaSpec& spec;
  const MlaWeights& weights;
  Tensor latent;      // the layer's cache
  ConstTensor turns;  // [tokens, 2, d_r / 2]
  PagedBatch batch;
  Tensor q;    // [tokens, heads, d_n + d_r]
  Tensor out;  // [tokens, heads, d_v]
};

// Absorbed attention of q_lat to the whole sequences, or to what the indexer has chosen of them.
Status AttendAbsorbed(const MlaRun& run, bool sparse, const PagedBatch& batch, const Tensor& q_lat,
                      const Tensor& o_lat, const StepContext& step) {
  const MlaShape& s = run.spec.shape;
  if (sparse) {
    const int32_t top_k = run.spec.indexer->top_k;
    const ConstTensor all(step.selection->data(), DType::kI32, {step.batch.num_tokens(), top_k});
    const int64_t begin = run.batch.cu_q[0];
    MlaSparseArgs args;
    args.q = q_lat;
    args.cache = run.latent;
    args.indices = all.Slice(0, begin, begin + q_lat.dim(0));
    args.batch = batch;
    args.kv_lora_rank = s.kv_lora_rank;
    args.scale = run.spec.scale;
    args.out = o_lat;
    return MlaSparse(args, step.context);
  }
  MlaAbsorbedArgs args;
  args.q = q_lat;
  args.cache = run.latent;
  args.batch = batch;
  args.kv_lora_rank = s.kv_lora_rank;
  args.scale = run.spec.scale;
  args.out = o_lat;
  return MlaAbsorbed(args, step.context);
}

Status RunAbsorbed(const MlaRun& run, bool sparse, const StepContext& step) {
  const MlaShape& s = run.spec.shape;
  const int64_t begin = run.batch.cu_q[0];
  const int64_t end = run.batch.cu_q[run.batch.num_seqs];
  const int64_t latent_dim = s.kv_lora_rank + s.qk_rope_head_dim;
  const Workspace::Scope scope(step.workspace);
  const Tensor all_q_lat = NewTensor(step.workspace, {end - begin, s.heads, latent_dim});
  const Tensor all_o_lat = NewTensor(step.workspace, {end - begin, s.heads, s.kv_lora_rank});
  const Tensor q = run.q.Slice(0, begin, end);
  MLA_RETURN_IF_ERROR(HeadLinear({.x = q.Slice(2, 0, s.qk_nope_head_dim),
                                  .w = TransposeInner(run.weights.w_uk),
                                  .y = all_q_lat.Slice(2, 0, s.kv_lora_rank)},
                                 step.context));
  MLA_RETURN_IF_ERROR(
      Rope({.x = q.Slice(2, s.qk_nope_head_dim, s.qk_nope_head_dim + s.qk_rope_head_dim),
            .turns = run.turns.Slice(0, begin, end),
            .pairing = run.spec.rope->pairing,
            .y = all_q_lat.Slice(2, s.kv_lora_rank, latent_dim)},
           step.context));
  // The operator's tokens are this run's alone: its offsets start at 0.
  std::vector<int32_t> cu_q(run.batch.cu_q, run.batch.cu_q + run.batch.num_seqs + 1);
  for (int32_t& offset : cu_q) offset -= static_cast<int32_t>(begin);
  PagedBatch batch = run.batch;
  batch.cu_q = cu_q.data();
  MLA_RETURN_IF_ERROR(AttendAbsorbed(run, sparse, batch, all_q_lat, all_o_lat, step));
  return HeadLinear({.x = all_o_lat, .w = run.weights.w_uv, .y = run.out.Slice(0, begin, end)},
                    step.context);
}

Status RunExpanded(const MlaRun& run, const StepContext& step) {
  const MlaShape& s = run.spec.shape;
  const int64_t begin = run.batch.cu_q[0];
  const int64_t end = run.batch.cu_q[run.batch.num_seqs];
  const Tensor q_pe = run.q.Slice(0, begin, end)
                          .Slice(2, s.qk_nope_head_dim, s.qk_nope_head_dim + s.qk_rope_head_dim);
  MLA_RETURN_IF_ERROR(Rope({.x = q_pe,
                            .turns = run.turns.Slice(0, begin, end),
                            .pairing = run.spec.rope->pairing,
                            .y = q_pe},
                           step.context));
  MlaExpandedArgs args;
  args.q = run.q;
  args.cache = run.latent;
  args.w_uk = run.weights.w_uk;
  args.w_uv = run.weights.w_uv;
  args.batch = run.batch;
  args.scale = run.spec.scale;
  args.out = run.out;
  return MlaExpanded(args, step.context);
}

// k [tokens, heads * (d_n + d_r)] and v [tokens, heads * d_v] of the new tokens, from their
// latents.
Status ExpandHeads(const MlaSpec& spec, const MlaWeights& weights, const Tensor& kv,
                   const Tensor& k, const Tensor& v, const StepContext& step) {
  const MlaShape& s = spec.shape;
  const int64_t d_k = s.qk_nope_head_dim + s.qk_rope_head_dim;
  std::vector<LinearTarget> targets;
  for (int64_t h = 0; h < s.heads; ++h) {
    const auto matrix = [h](const ConstTensor& w) {
      const ConstTensor head = w.Slice(0, h, h + 1);
      return ConstTensor(head.data(), w.dtype(), {w.dim(1), w.dim(2)}, {w.stride(1), w.stride(2)},
                         w.device());
    };
    targets.push_back(
        {matrix(weights.w_uk), {}, k.Slice(1, h * d_k, h * d_k + s.qk_nope_head_dim)});
    targets.push_back(
        {matrix(weights.w_uv), {}, v.Slice(1, h * s.v_head_dim, (h + 1) * s.v_head_dim)});
  }
  MLA_RETURN_IF_ERROR(
      Linear({.x = kv.Slice(1, 0, s.kv_lora_rank), .targets = targets}, step.context));
  for (int64_t t = 0; t < kv.dim(0); ++t) {
    const float* k_pe = kv.as<float>() + t * kv.stride(0) + s.kv_lora_rank;
    for (int64_t h = 0; h < s.heads; ++h) {
      std::copy_n(k_pe, s.qk_rope_head_dim,
                  k.as<float>() + t * k.stride(0) + h * d_k + s.qk_nope_head_dim);
    }
  }
  return {};
}

// A cache of heads, one token to a page: page ids are slots.
ConstTensor OneTokenPages(const ConstTensor& pages) {
  return ConstTensor(pages.data(), pages.dtype(),
                     {pages.dim(0) * pages.dim(1), 1, pages.dim(2), pages.dim(3)});
}

// Attention of sequences [begin, end) to what the indexer has chosen: each query is a sequence of
// its own, whose pages are the tokens chosen, one to a page. `args` as for the whole sequences.
Status AttendChosenHeads(const IndexerSpec& indexer, size_t layer, int32_t begin, int32_t end,
                         GqaArgs args, const StepContext& step) {
  const StepBatch& all = step.batch;
  const int64_t top_k = indexer.top_k;
  const int64_t queries = all.cu_q[end] - all.cu_q[begin];
  std::vector<int32_t> cu_q(queries + 1, all.cu_q[begin]);
  std::vector<int32_t> kv_lens(queries);
  std::vector<int32_t> pages(queries * top_k, -1);
  int64_t query = 0;
  for (int32_t s = begin; s < end; ++s) {
    const int32_t* sequence_pages = all.page_table.data() + s * all.page_table_stride;
    for (int32_t token = all.cu_q[s]; token < all.cu_q[s + 1]; ++token, ++query) {
      cu_q[query + 1] = token + 1;
      const int32_t* chosen = step.selection->data() + token * top_k;
      int32_t& count = kv_lens[query];
      for (; count < top_k && chosen[count] >= 0; ++count) {
        const int64_t page = sequence_pages[chosen[count] / all.page_size];
        const int64_t slot = page * all.page_size + chosen[count] % all.page_size;
        MLA_CHECK(slot <= INT32_MAX, "slot ", slot);
        pages[query * top_k + count] = static_cast<int32_t>(slot);
      }
    }
  }
  args.k_cache = OneTokenPages(args.k_cache);
  args.v_cache = OneTokenPages(args.v_cache);
  args.batch = {static_cast<int32_t>(queries), cu_q.data(), kv_lens.data(), pages.data(), top_k, 1};
  if (step.attention_observer != nullptr) (*step.attention_observer)(layer, args);
  return Gqa(args, step.context);
}

// Attention over a cache of all heads. Neighbouring sequences that attend alike go into one call.
Status AttendHeads(const MlaSpec& spec, size_t layer, GqaArgs args, const StepContext& step) {
  const auto chosen = [&](int32_t seq) {
    return spec.indexer && IsSparse(*spec.indexer, step, seq);
  };
  for (int32_t begin = 0; begin < step.batch.num_seqs();) {
    int32_t end = begin + 1;
    while (end < step.batch.num_seqs() && chosen(end) == chosen(begin)) ++end;
    if (chosen(begin)) {
      MLA_RETURN_IF_ERROR(AttendChosenHeads(*spec.indexer, layer, begin, end, args, step));
    } else {
      args.batch = step.batch.Paged(begin, end);
      if (step.attention_observer != nullptr) (*step.attention_observer)(layer, args);
      MLA_RETURN_IF_ERROR(Gqa(args, step.context));
    }
    begin = end;
  }
  return {};
}

// The layer as plain MHA: keys and values of all heads go into the cache, and the Gqa operator
// attends to them. q [tokens, heads * (d_n + d_r)] before RoPE; kv [tokens, r + d_r] after it.
Status RunFullHeads(const MlaSpec& spec, const MlaWeights& weights, size_t layer,
                    const ConstTensor& turns, const Tensor& q, const Tensor& kv, const Tensor& out,
                    const StepContext& step) {
  const MlaShape& s = spec.shape;
  const int64_t d_k = s.qk_nope_head_dim + s.qk_rope_head_dim;
  const Tensor k = NewTensor(step.workspace, {kv.dim(0), s.heads * d_k});
  const Tensor v = NewTensor(step.workspace, {kv.dim(0), int64_t{s.heads} * s.v_head_dim});
  MLA_RETURN_IF_ERROR(ExpandHeads(spec, weights, kv, k, v, step));
  const Tensor q_heads = AsHeads(q, s.heads);
  const Tensor q_pe = q_heads.Slice(2, s.qk_nope_head_dim, d_k);
  MLA_RETURN_IF_ERROR(
      Rope({.x = q_pe, .turns = turns, .pairing = spec.rope->pairing, .y = q_pe}, step.context));
  const Tensor k_pages = step.cache.Component(layer, 0);
  const Tensor v_pages = step.cache.Component(layer, 1);
  MLA_RETURN_IF_ERROR(
      CacheWrite({.x = k, .slots = step.batch.slots, .cache = AsSlots(k_pages)}, step.context));
  MLA_RETURN_IF_ERROR(
      CacheWrite({.x = v, .slots = step.batch.slots, .cache = AsSlots(v_pages)}, step.context));
  const auto with_heads = [&](const Tensor& pages, int64_t dim) {
    return Tensor(pages.data(), pages.dtype(), {pages.dim(0), pages.dim(1), s.heads, dim});
  };
  GqaArgs args;
  args.q = q_heads;
  args.k_cache = with_heads(k_pages, d_k);
  args.v_cache = with_heads(v_pages, s.v_head_dim);
  args.scale = spec.scale;
  args.out = out;
  return AttendHeads(spec, layer, args, step);
}

// How one sequence attends.
enum class RunKind { kAbsorbed, kExpanded, kSparse };

RunKind KindOf(const MlaSpec& spec, const StepContext& step, int32_t seq) {
  // The tokens chosen differ from query to query: expanding them would serve each query once.
  if (spec.indexer && IsSparse(*spec.indexer, step, seq)) return RunKind::kSparse;
  switch (step.form) {
    case AttentionForm::kAbsorbed: return RunKind::kAbsorbed;
    case AttentionForm::kExpanded: return RunKind::kExpanded;
    case AttentionForm::kAuto:
    case AttentionForm::kMha: break;
  }
  const StepBatch& batch = step.batch;
  const MlaForm form =
      ChooseMlaForm(spec.shape, batch.cu_q[seq + 1] - batch.cu_q[seq], batch.kv_lens[seq],
                    MlaArithmeticOf(step.context.compute, step.cache.options().dtype));
  return form == MlaForm::kAbsorbed ? RunKind::kAbsorbed : RunKind::kExpanded;
}

// q (before RoPE) over the cached latents -> out. Neighbouring sequences of one kind go into one
// call.
Status AttendLatent(const MlaSpec& spec, const MlaWeights& weights, const Tensor& latent,
                    const ConstTensor& turns, const Tensor& q, const Tensor& out,
                    const StepContext& step) {
  for (int32_t begin = 0; begin < step.batch.num_seqs();) {
    const RunKind kind = KindOf(spec, step, begin);
    int32_t end = begin + 1;
    while (end < step.batch.num_seqs() && KindOf(spec, step, end) == kind) ++end;
    const MlaRun run{spec, weights, latent, turns, step.batch.Paged(begin, end), q, out};
    MLA_RETURN_IF_ERROR(kind == RunKind::kExpanded
                            ? RunExpanded(run, step)
                            : RunAbsorbed(run, kind == RunKind::kSparse, step));
    begin = end;
  }
  return {};
}

}  // namespace

Status RunMla(const MlaSpec& spec, const MlaWeights& weights, size_t layer,
              const ConstTensor& turns, const ConstTensor& x, const Tensor& hidden,
              const StepContext& step) {
  const MlaShape& s = spec.shape;
  const int64_t tokens = x.dim(0);
  const int64_t latent_dim = s.kv_lora_rank + s.qk_rope_head_dim;
  const Workspace::Scope scope(step.workspace);
  const Tensor q = NewTensor(
      step.workspace, {tokens, int64_t{s.heads} * (s.qk_nope_head_dim + s.qk_rope_head_dim)});
  const Tensor kv = NewTensor(step.workspace, {tokens, latent_dim});
  Tensor q_latent;
  if (spec.q_lora_rank > 0) q_latent = NewTensor(step.workspace, {tokens, spec.q_lora_rank});
  MLA_RETURN_IF_ERROR(ProjectMla(spec, weights, x, q, q_latent, kv, step));
  const Tensor k_pe = AsHeads(kv.Slice(1, s.kv_lora_rank, latent_dim), 1);
  MLA_RETURN_IF_ERROR(
      Rope({.x = k_pe, .turns = turns, .pairing = spec.rope->pairing, .y = k_pe}, step.context));
  const Tensor out = NewTensor(step.workspace, {tokens, s.heads, s.v_head_dim});
  const Tensor flat(out.data(), DType::kF32, {tokens, int64_t{s.heads} * s.v_head_dim});
  const std::string& component = step.cache.options().layers[layer][0].name;
  if ((step.form == AttentionForm::kMha) != (component == "k")) {
    return InvalidArgument("the cache of layer ", layer, " begins with ", component,
                           ", which this form of attention does not use: make the cache for it");
  }
  // Before attention, which it chooses the tokens for; in every form, from keys of its own.
  if (weights.indexer) {
    MLA_RETURN_IF_ERROR(RunIndexer(spec, *weights.indexer, layer, turns, x, q_latent, step));
  }
  if (step.form == AttentionForm::kMha) {
    MLA_RETURN_IF_ERROR(RunFullHeads(spec, weights, layer, turns, q, kv, out, step));
    return AddProjection(weights.o, flat, hidden, step.context);
  }
  const Tensor latent = step.cache.Component(layer, 0);
  MLA_RETURN_IF_ERROR(CacheWrite({.x = kv,
                                  .slots = step.batch.slots,
                                  .cache = AsSlots(latent),
                                  .kv_lora_rank = s.kv_lora_rank},
                                 step.context));
  MLA_RETURN_IF_ERROR(AttendLatent(spec, weights, latent, turns, AsHeads(q, s.heads), out, step));
  return AddProjection(weights.o, flat, hidden, step.context);
}

Status RunGqa(const GqaSpec& spec, const GqaWeights& weights, size_t layer,
              const ConstTensor& turns, const ConstTensor& x, const Tensor& hidden,
              const StepContext& step) {
  const int64_t tokens = x.dim(0);
  const int64_t q_dim = int64_t{spec.heads} * spec.head_dim;
  const int64_t kv_dim = int64_t{spec.kv_heads} * spec.head_dim;
  const Workspace::Scope scope(step.workspace);
  const Tensor q = NewTensor(step.workspace, {tokens, q_dim});
  const Tensor k = NewTensor(step.workspace, {tokens, kv_dim});
  const Tensor v = NewTensor(step.workspace, {tokens, kv_dim});
  const LinearTarget targets[] = {{weights.q.w, weights.q.bias, q},
                                  {weights.k.w, weights.k.bias, k},
                                  {weights.v.w, weights.v.bias, v}};
  MLA_RETURN_IF_ERROR(Linear({.x = x, .targets = targets}, step.context));
  if (spec.qk_norm_eps) {
    const auto norm_heads = [&](const Tensor& t, const ConstTensor& w) {
      const Tensor heads(t.data(), t.dtype(), {t.num_elements() / spec.head_dim, spec.head_dim});
      return RmsNorm({.x = heads, .w = w, .eps = *spec.qk_norm_eps, .y = heads}, step.context);
    };
    MLA_RETURN_IF_ERROR(norm_heads(q, weights.q_norm));
    MLA_RETURN_IF_ERROR(norm_heads(k, weights.k_norm));
  }
  for (const Tensor& rotated : {AsHeads(q, spec.heads), AsHeads(k, spec.kv_heads)}) {
    MLA_RETURN_IF_ERROR(Rope(
        {.x = rotated, .turns = turns, .pairing = spec.rope->pairing, .y = rotated}, step.context));
  }
  const Tensor k_pages = step.cache.Component(layer, 0);
  const Tensor v_pages = step.cache.Component(layer, 1);
  MLA_RETURN_IF_ERROR(
      CacheWrite({.x = k, .slots = step.batch.slots, .cache = AsSlots(k_pages)}, step.context));
  MLA_RETURN_IF_ERROR(
      CacheWrite({.x = v, .slots = step.batch.slots, .cache = AsSlots(v_pages)}, step.context));

  const auto with_heads = [&](const Tensor& pages) {
    return Tensor(pages.data(), pages.dtype(),
                  {pages.dim(0), pages.dim(1), spec.kv_heads, spec.head_dim});
  };
  const Tensor out = NewTensor(step.workspace, {tokens, q_dim});
  GqaArgs args;
  args.q = AsHeads(q, spec.heads);
  args.k_cache = with_heads(k_pages);
  args.v_cache = with_heads(v_pages);
  args.batch = step.batch.Paged(0, step.batch.num_seqs());
  args.scale = spec.scale;
  args.out = AsHeads(out, spec.heads);
  if (step.attention_observer != nullptr) (*step.attention_observer)(layer, args);
  MLA_RETURN_IF_ERROR(Gqa(args, step.context));
  return AddProjection(weights.o, out, hidden, step.context);
}

}  // namespace mla
