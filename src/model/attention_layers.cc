#include "mla/attention.h"
#include "mla/elementwise.h"
#include "mla/linear.h"
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

// q [tokens, heads * (d_n + d_r)] and kv [tokens, r + d_r], both before RoPE, c_kv normed.
Status ProjectMla(const MlaSpec& spec, const MlaWeights& weights, const ConstTensor& x,
                  const Tensor& q, const Tensor& kv, const StepContext& step) {
  const LinearTarget kv_target{weights.kv_a.w, weights.kv_a.bias, kv};
  if (spec.q_lora_rank == 0) {
    const LinearTarget targets[] = {{weights.q.w, weights.q.bias, q}, kv_target};
    MLA_RETURN_IF_ERROR(Linear({.x = x, .targets = targets}, step.context));
  } else {
    const Tensor q_a = NewTensor(step.workspace, {x.dim(0), spec.q_lora_rank});
    const LinearTarget targets[] = {{weights.q_a.w, weights.q_a.bias, q_a}, kv_target};
    MLA_RETURN_IF_ERROR(Linear({.x = x, .targets = targets}, step.context));
    MLA_RETURN_IF_ERROR(RmsNorm(
        {.x = q_a, .w = weights.q_a_norm, .eps = spec.latent_norm_eps, .y = q_a}, step.context));
    const LinearTarget q_target{weights.q_b.w, weights.q_b.bias, q};
    MLA_RETURN_IF_ERROR(Linear({.x = q_a, .targets = {&q_target, 1}}, step.context));
  }
  const Tensor c_kv = kv.Slice(1, 0, spec.shape.kv_lora_rank);
  return RmsNorm({.x = c_kv, .w = weights.kv_a_norm, .eps = spec.latent_norm_eps, .y = c_kv},
                 step.context);
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

Status RunAbsorbed(const MlaRun& run, const StepContext& step) {
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
  MlaAbsorbedArgs args;
  args.q = all_q_lat;
  args.cache = run.latent;
  args.batch = run.batch;
  args.batch.cu_q = cu_q.data();
  args.kv_lora_rank = s.kv_lora_rank;
  args.scale = run.spec.scale;
  args.out = all_o_lat;
  MLA_RETURN_IF_ERROR(MlaAbsorbed(args, step.context));
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

MlaForm FormOf(const MlaSpec& spec, const StepContext& step, int32_t seq) {
  switch (step.form) {
    case AttentionForm::kAbsorbed: return MlaForm::kAbsorbed;
    case AttentionForm::kExpanded: return MlaForm::kExpanded;
    case AttentionForm::kAuto: break;
  }
  const StepBatch& batch = step.batch;
  return ChooseMlaForm(spec.shape, batch.cu_q[seq + 1] - batch.cu_q[seq], batch.kv_lens[seq]);
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
  MLA_RETURN_IF_ERROR(ProjectMla(spec, weights, x, q, kv, step));
  const Tensor k_pe = AsHeads(kv.Slice(1, s.kv_lora_rank, latent_dim), 1);
  MLA_RETURN_IF_ERROR(
      Rope({.x = k_pe, .turns = turns, .pairing = spec.rope->pairing, .y = k_pe}, step.context));
  const Tensor latent = step.cache.Component(layer, 0);
  MLA_RETURN_IF_ERROR(
      CacheWrite({.x = kv, .slots = step.batch.slots, .cache = AsSlots(latent)}, step.context));

  const Tensor out = NewTensor(step.workspace, {tokens, s.heads, s.v_head_dim});
  // Neighbouring sequences that take the same form go into one call.
  for (int32_t begin = 0; begin < step.batch.num_seqs();) {
    const MlaForm form = FormOf(spec, step, begin);
    int32_t end = begin + 1;
    while (end < step.batch.num_seqs() && FormOf(spec, step, end) == form) ++end;
    const MlaRun run{
        spec, weights, latent, turns, step.batch.Paged(begin, end), AsHeads(q, s.heads), out};
    MLA_RETURN_IF_ERROR(form == MlaForm::kAbsorbed ? RunAbsorbed(run, step)
                                                   : RunExpanded(run, step));
    begin = end;
  }
  const Tensor flat(out.data(), DType::kF32, {tokens, int64_t{s.heads} * s.v_head_dim});
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
  MLA_RETURN_IF_ERROR(Gqa(args, step.context));
  return AddProjection(weights.o, out, hidden, step.context);
}

}  // namespace mla
