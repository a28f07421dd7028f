#include "apps/session_flags.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/cli.h"
#include "apps/progress.h"
#include "base/threads.h"
#include "kernels/cpu/isa.h"

namespace mla {
namespace {

DType ParseKvDType(std::string_view name) {
  if (name == "f32") return DType::kF32;
  if (name == "int8") return DType::kI8;
  return name == "f16" ? DType::kF16 : DType::kBF16;
}

}  // namespace

void SessionFlags::AddModel(CLI::App& app, bool required) {
  auto* option = app.add_option(
      "MODEL", model,
      "Hugging Face directory (config.json, *.safetensors, tokenizer), or GGUF file");
  option->required(required)->check(NotEmpty())->type_name("");
}

void SessionFlags::AddSession(CLI::App& app) {
  app.add_option("--context", context, "Most tokens to hold (default: the model's own)")
      ->check(IntRange(1))
      ->type_name("N");
  app.add_option("--threads", threads, "CPU threads (default: one per usable CPU)")
      ->check(IntRange(1, 1024))
      ->type_name("N");
  app.add_option("--page-size", page_size, "Tokens per page of the KV cache (default: 64)")
      ->check(IntRange(1, 256))
      ->type_name("N");
  app.add_option("--prefill-chunk", prefill_chunk,
                 "Tokens of a prompt per step: fewer take less memory and longer (default: 2048)")
      ->check(IntRange(1))
      ->type_name("N");
  AddCacheForm(app);
  AddQuantize(app);
}

void SessionFlags::AddCacheForm(CLI::App& app) {
  app.add_option("--kv-dtype", kv_dtype,
                 "KV cache: f32, f16, bf16, or int8: MLA's latent in 8 bits with a scale per 128\n"
                 "numbers (default: bf16 with --compute bf16, else f32)")
      ->check(OneOf({"f32", "f16", "bf16", "int8"}))
      ->type_name("TYPE");
  app.add_option("--attention", attention,
                 "Form of MLA: auto (by cost), absorbed, expanded, or mha: plain multi-head\n"
                 "attention with all keys and values cached, to compare (default: auto)")
      ->check(OneOf({"auto", "absorbed", "expanded", "mha"}))
      ->type_name("FORM");
  app.add_option("--compute", compute,
                 "Arithmetic: f32 (exact), or bf16 (fast; default where the CPU has it)")
      ->check(OneOf({"f32", "bf16"}))
      ->type_name("MODE");
}

void SessionFlags::AddQuantize(CLI::App& app) {
  app.add_option("--quantize", quantize,
                 "Quantise bf16, f16 and f32 weights at load: q8 (q8_0, 8.5 bits per weight) or\n"
                 "q4 (q4_K, 4.5 bits; head q6_K); norms, routers, embedding and kv_b stay")
      ->check(OneOf({"q8", "q4"}))
      ->type_name("TYPE");
}

SessionOptions SessionFlags::ToOptions() const {
  SessionOptions options;
  options.context = context;
  options.threads = threads;
  options.page_size = page_size;
  options.prefill_chunk = prefill_chunk;
  if (!kv_dtype.empty()) options.kv_dtype = ParseKvDType(kv_dtype);
  if (!compute.empty()) {
    options.compute = compute == "f32" ? ComputeMode::kF32 : ComputeMode::kBF16;
  }
  if (attention == "absorbed") options.form = AttentionForm::kAbsorbed;
  if (attention == "expanded") options.form = AttentionForm::kExpanded;
  if (attention == "mha") options.form = AttentionForm::kMha;
  return options;
}

DType SessionFlags::DecodedWeights() const {
  const bool bf16 = compute.empty() ? cpu::UsesAvx512Bf16() : compute == "bf16";
  return bf16 ? DType::kBF16 : DType::kF32;
}

Result<std::unique_ptr<Model>> LoadModel(const std::string& dir, DType decoded) {
  MLA_RETURN_IF_ERROR(cpu::CurrentIsaError());
  return Model::Load(dir, decoded);
}

void QuantiseAsAsked(const SessionFlags& flags, Model& model) {
  if (flags.quantize.empty()) return;
  ThreadPool threads(flags.threads > 0 ? flags.threads : UsableCpus());
  std::optional<ProgressBar> bar;
  QuantiseOptions options;
  options.to = flags.quantize == "q4" ? QuantiseTo::kQ4 : QuantiseTo::kQ8;
  options.threads = &threads;
  options.progress = [&](int64_t done, int64_t total) {
    if (!bar) bar.emplace("quantize", total);
    bar->Update(done);
  };
  const QuantiseReport report = model.Quantise(options);
  bar.reset();
  if (!report.fallbacks.empty()) {
    std::fprintf(stderr, "note: --quantize %s: %s\n", flags.quantize.c_str(),
                 report.fallbacks.c_str());
  }
}

Result<std::unique_ptr<Model>> LoadModel(const SessionFlags& flags) {
  MLA_ASSIGN_OR_RETURN(std::unique_ptr<Model> model,
                       LoadModel(flags.model, flags.DecodedWeights()));
  QuantiseAsAsked(flags, *model);
  return model;
}

Result<LoadedModel> LoadModelAndTokenizer(const SessionFlags& flags) {
  LoadedModel loaded;
  MLA_ASSIGN_OR_RETURN(loaded.model, LoadModel(flags.model, flags.DecodedWeights()));
  MLA_ASSIGN_OR_RETURN(loaded.tokenizer, Tokenizer::Load(flags.model));
  QuantiseAsAsked(flags, *loaded.model);
  return loaded;
}

int32_t BosId(const LoadedModel& loaded) {
  const int32_t bos = loaded.tokenizer->bos_id();
  return bos >= 0 ? bos : loaded.model->spec().bos_id;
}

int32_t EosId(const LoadedModel& loaded) {
  const std::vector<int32_t>& eos = loaded.tokenizer->eos_ids();
  if (!eos.empty()) return eos.front();
  const std::vector<int32_t>& config = loaded.model->spec().eos_ids;
  return config.empty() ? -1 : config.front();
}

Result<std::vector<int32_t>> EncodePrompt(const LoadedModel& loaded, std::string_view text) {
  MLA_ASSIGN_OR_RETURN(std::vector<int32_t> ids, loaded.tokenizer->Encode(text));
  const std::vector<int32_t>& eos = loaded.tokenizer->eos_ids();
  while (!ids.empty() && std::find(eos.begin(), eos.end(), ids.back()) != eos.end()) {
    ids.pop_back();
  }
  return ids;
}

CacheUse MeasureCache(const Session& session) {
  const DType plain = PlainCacheDType(session.cache().options().dtype);
  const auto element = static_cast<int64_t>(SizeOf(plain));
  CacheUse use;
  use.tokens = session.length();
  use.bytes = session.cache_bytes();
  use.mha_bytes = CompareCaches(session.model().spec()).mha * element * use.tokens;
  return use;
}

std::string DescribeSession(const Session& session) {
  return Concat("compute ", ComputeModeName(session.compute()), ", KV cache ",
                CacheDTypeName(session.cache().options().dtype), ", ", cpu::CurrentIsa(), ", ",
                session.threads(), session.threads() == 1 ? " thread" : " threads");
}

nlohmann::ordered_json SessionJson(const Session& session) {
  nlohmann::ordered_json json;
  json["compute"] = ComputeModeName(session.compute());
  json["kv_dtype"] = CacheDTypeName(session.cache().options().dtype);
  json["page_size"] = session.cache().options().page_size;
  json["prefill_chunk"] = session.prefill_chunk();
  json["context"] = session.context();
  json["isa"] = cpu::CurrentIsa();
  json["threads"] = session.threads();
  return json;
}

}  // namespace mla
