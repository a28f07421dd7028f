#include "apps/bench_explain.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/output.h"
#include "dispatch/mla_cost.h"
#include "mla/attention.h"

namespace mla {
namespace {

// The first kernel that accepts.
Result<std::string> KernelOf(Result<KernelVerdicts> verdicts) {
  if (!verdicts.ok()) return verdicts.error();
  for (const KernelVerdict& verdict : *verdicts) {
    if (verdict.refusal.empty()) return std::string(verdict.kernel);
  }
  return std::string("none");
}

// The kernel that attends in this form: asked with one query on one cached token, as what kernels
// refuse are types and dims.
Result<std::string> MlaKernel(const Session& session, size_t layer, MlaForm form) {
  const auto& mla = std::get<MlaSpec>(session.model().spec().layers[layer].attention);
  const auto& weights = std::get<MlaWeights>(session.model().weights().layers[layer].attention);
  const MlaShape& s = mla.shape;
  const int32_t cu_q[] = {0, 1}, kv_len = 1, page = 0;
  const PagedBatch batch{1, cu_q, &kv_len, &page, 1, session.cache().options().page_size};
  const int64_t latent = s.kv_lora_rank + s.qk_rope_head_dim;
  const int64_t d_k = s.qk_nope_head_dim + s.qk_rope_head_dim;
  std::vector<float> memory(s.heads * std::max({latent, d_k, int64_t{s.v_head_dim}}));
  Context context;
  context.compute = session.compute();
  const Tensor cache = session.cache().Component(layer, 0);
  if (form == MlaForm::kAbsorbed) {
    MlaAbsorbedArgs args;
    args.q = ConstTensor(memory.data(), DType::kF32, {1, s.heads, latent});
    args.cache = cache;
    args.batch = batch;
    args.kv_lora_rank = s.kv_lora_rank;
    args.scale = mla.scale;
    args.out = Tensor(memory.data(), DType::kF32, {1, s.heads, s.kv_lora_rank});
    return KernelOf(ExplainMlaAbsorbed(args, context));
  }
  MlaExpandedArgs args;
  args.q = ConstTensor(memory.data(), DType::kF32, {1, s.heads, d_k});
  args.cache = cache;
  args.w_uk = weights.w_uk;
  args.w_uv = weights.w_uv;
  args.batch = batch;
  args.scale = mla.scale;
  args.out = Tensor(memory.data(), DType::kF32, {1, s.heads, s.v_head_dim});
  return KernelOf(ExplainMlaExpanded(args, context));
}

bool SameAttention(const LayerSpec& a, const LayerSpec& b) {
  const auto *x = std::get_if<MlaSpec>(&a.attention), *y = std::get_if<MlaSpec>(&b.attention);
  if (x == nullptr || y == nullptr) return x == y;
  const auto key = [](const MlaSpec& m) {
    return std::array{m.shape.heads,
                      m.shape.kv_lora_rank,
                      m.shape.qk_nope_head_dim,
                      m.shape.qk_rope_head_dim,
                      m.shape.v_head_dim,
                      m.indexer ? m.indexer->top_k : 0};
  };
  return key(*x) == key(*y);
}

class Explainer {
 public:
  Explainer(const Session& session, AttentionForm asked, size_t first, size_t last)
      : session_(session), asked_(asked), first_(first), last_(last) {}

  // A step of q tokens that makes the cache kv long.
  Status Add(int32_t q, int32_t kv) {
    const LayerSpec& layer = session_.model().spec().layers[first_];
    const auto* mla = std::get_if<MlaSpec>(&layer.attention);
    if (mla == nullptr) return AddPlain("gqa", "no MLA in these layers", q, kv);
    if (asked_ == AttentionForm::kMha) return AddPlain("mha", "asked for", q, kv);
    if (mla->indexer && kv > mla->indexer->top_k) {
      return AddPlain("sparse", Concat("absorbed, over ", mla->indexer->top_k, " chosen tokens"), q,
                      kv);
    }
    const MlaArithmetic arithmetic =
        MlaArithmeticOf(session_.compute(), session_.cache().options().dtype);
    MlaForm form = ChooseMlaForm(mla->shape, q, kv, arithmetic);
    const bool chosen = asked_ == AttentionForm::kAuto;
    if (!chosen) {
      form = asked_ == AttentionForm::kAbsorbed ? MlaForm::kAbsorbed : MlaForm::kExpanded;
    }
    const char* name = form == MlaForm::kAbsorbed ? "absorbed" : "expanded";
    FormDecision& d = Extend(name, chosen ? "estimate" : "asked for", q, kv);
    if (d.kernel.empty()) {
      MLA_ASSIGN_OR_RETURN(d.kernel, MlaKernel(session_, first_, form));
    }
    const MlaEstimate absorbed = EstimateMla(MlaForm::kAbsorbed, mla->shape, q, kv, arithmetic);
    const MlaEstimate expanded = EstimateMla(MlaForm::kExpanded, mla->shape, q, kv, arithmetic);
    const double scale = 1e3 * static_cast<double>(last_ - first_ + 1) / session_.threads();
    d.absorbed_ms += scale * absorbed.total();
    d.expanded_ms += scale * expanded.total();
    const MlaEstimate& ran = form == MlaForm::kAbsorbed ? absorbed : expanded;
    d.splits = ran.splits;
    d.limit = Concat(MlaTermName(ran.largest()), " ",
                     Fixed(100 * ran.seconds[ran.largest()] / ran.total(), 0), " %");
    return {};
  }

  std::vector<FormDecision>& decisions() { return decisions_; }

 private:
  Status AddPlain(const std::string& form, const std::string& reason, int32_t q, int32_t kv) {
    Extend(form, reason, q, kv);
    return {};
  }

  FormDecision& Extend(const std::string& form, const std::string& reason, int32_t q, int32_t kv) {
    if (decisions_.empty() || decisions_.back().form != form) {
      FormDecision d;
      d.first_layer = first_;
      d.last_layer = last_;
      d.queries = q;
      d.from_length = kv;
      d.form = form;
      d.reason = reason;
      decisions_.push_back(std::move(d));
    }
    FormDecision& d = decisions_.back();
    ++d.steps;
    d.length = kv;
    return d;
  }

  const Session& session_;
  AttentionForm asked_;
  size_t first_, last_;
  std::vector<FormDecision> decisions_;
};

}  // namespace

Result<std::vector<FormDecision>> ExplainForms(const Session& session, AttentionForm form,
                                               int32_t depth, int32_t tokens, int32_t step) {
  const std::vector<LayerSpec>& layers = session.model().spec().layers;
  std::vector<FormDecision> all;
  for (size_t first = 0; first < layers.size();) {
    size_t end = first + 1;
    while (end < layers.size() && SameAttention(layers[first], layers[end])) ++end;
    Explainer explainer(session, form, first, end - 1);
    for (int32_t done = 0; done < tokens;) {
      const int32_t q = std::min(step, tokens - done);
      done += q;
      MLA_RETURN_IF_ERROR(explainer.Add(q, depth + done));
    }
    for (FormDecision& decision : explainer.decisions()) all.push_back(std::move(decision));
    first = end;
  }
  return all;
}

std::string DecisionLine(const FormDecision& d) {
  std::string line = Concat(d.first_layer == d.last_layer ? "layer " : "layers ", d.first_layer);
  if (d.last_layer != d.first_layer) line += Concat("-", d.last_layer);
  line += Concat(", ", d.steps, d.steps == 1 ? " step of " : " steps of ", d.queries, " on ",
                 WithCommas(d.from_length));
  if (d.length != d.from_length) line += Concat(" to ", WithCommas(d.length));
  line += Concat(": ", d.form, " (", d.reason, ")");
  if (d.kernel.empty()) return line;
  line += Concat(", ", d.kernel);
  if (d.splits > 1) line += Concat(", keys in ", d.splits, " parts");
  return line + Concat("; absorbed ", Fixed(d.absorbed_ms, 3), " ms, expanded ",
                       Fixed(d.expanded_ms, 3), " ms; most of it: ", d.limit);
}

nlohmann::ordered_json DecisionJson(const FormDecision& d) {
  nlohmann::ordered_json json = {{"first_layer", d.first_layer},
                                 {"last_layer", d.last_layer},
                                 {"steps", d.steps},
                                 {"queries", d.queries},
                                 {"from_length", d.from_length},
                                 {"length", d.length},
                                 {"form", d.form},
                                 {"reason", d.reason}};
  if (d.kernel.empty()) return json;
  json["kernel"] = d.kernel;
  json["splits"] = d.splits;
  json["absorbed_ms"] = d.absorbed_ms;
  json["expanded_ms"] = d.expanded_ms;
  json["limit"] = d.limit;
  return json;
}

}  // namespace mla
