// mla inspect: what a model is made of, and what this machine can do with it.
#include <nlohmann/json.hpp>
#include <string>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/cuda_info.h"
#include "apps/inspect_text.h"
#include "apps/model_report.h"
#include "apps/output.h"
#include "apps/sampling_flags.h"
#include "apps/session_flags.h"
#include "apps/system_info.h"
#include "apps/version.h"
#include "base/threads.h"
#include "kernels/cpu/isa.h"
#include "model/accounting.h"
#include "model/gguf_model.h"

namespace mla {
namespace {

constexpr const char* kDescription =
    R"(Says what a model is made of: its file format, its layers, its parameters by kind, what it
takes on disk and in which types, its tokenizer with the special tokens, its chat template, and the
bytes its KV cache takes per token, against MHA, GQA with 8 KV heads and MQA with the same heads.
Of a model that mla does not run, its files are shown all the same, and why it cannot be run.
With --system: this machine, its instruction sets and the kernels of each operator.)";

constexpr const char* kExamples = R"(  mla inspect models/stories-mla-9m
  mla inspect models/stories-mla-9m --json
  mla inspect model.gguf --template
  mla inspect --system
  MLA_ISA=avx2 mla inspect --system)";

using Json = nlohmann::ordered_json;

struct InspectFlags {
  SessionFlags session;
  bool system = false;
  bool chat_template = false;
  bool json = false;
};

// The cache of a session of this model, one token in it.
struct CacheCost {
  std::string dtype;  // of the session's cache
  std::string other;  // of the caches it is compared with: bf16 beside int8, which holds no heads
  int64_t bytes_per_token = 0, mha = 0, gqa8 = 0, mqa = 0;
};

Result<CacheCost> MeasureCost(const Model& model, SessionOptions options) {
  options.threads = 1;
  options.context = 1;
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::Create(model, options));
  const DType dtype = session->cache().options().dtype;
  const DType other = PlainCacheDType(dtype);
  const auto element = static_cast<int64_t>(SizeOf(other));
  const CacheComparison numbers = CompareCaches(model.spec());
  return CacheCost{std::string(CacheDTypeName(dtype)),
                   std::string(DTypeName(other)),
                   session->cache().bytes_per_token(),
                   numbers.mha * element,
                   numbers.gqa8 * element,
                   numbers.mqa * element};
}

std::string JoinIds(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += Concat(text.empty() ? "" : ", ", id);
  return text.empty() ? "none" : text;
}

// "GGUF version 3, alignment 32", "safetensors, 4 files".
std::string DescribeFormat(const Checkpoint& checkpoint) {
  if (const GgufFile* gguf = checkpoint.gguf()) {
    return Concat("GGUF version ", gguf->version(), ", alignment ", gguf->alignment());
  }
  const size_t files = checkpoint.files().size();
  return Concat("safetensors, ", files, files == 1 ? " file" : " files");
}

void AddStored(const Checkpoint& checkpoint, Json& json) {
  for (const auto& [dtype, kind] : CountStored(checkpoint)) {
    json["stored"][dtype] = {
        {"tensors", kind.tensors}, {"numbers", kind.numbers}, {"bytes", kind.bytes}};
  }
  for (const auto& [kind, dtypes] : QuantisedKinds(checkpoint)) {
    json["stored_kinds"][kind] = dtypes;
  }
  const GgufFile* gguf = checkpoint.gguf();
  json["format"] = gguf != nullptr ? "gguf" : "safetensors";
  json["stored_bytes"] = gguf != nullptr ? gguf->data_bytes() : checkpoint.data_bytes();
  json["files"] = gguf != nullptr ? 1 : checkpoint.files().size();
}

Json ModelJson(const InspectFlags& flags, const Model& model, const CacheCost& cost,
               const GenerateOptions& generation, std::vector<ParameterKind> kinds) {
  const ModelSpec& spec = model.spec();
  Json json;
  json["model"] = flags.session.model;
  json["model_type"] = spec.model_type;
  json["vocab_size"] = spec.vocab_size;
  json["hidden_size"] = spec.hidden_size;
  json["num_layers"] = spec.layers.size();
  json["context"] = spec.max_positions;
  json["tie_embeddings"] = spec.tie_embeddings;
  json["bos_id"] = spec.bos_id >= 0 ? Json(spec.bos_id) : Json();
  json["eos_ids"] = generation.stop_ids;
  for (const LayerRange& range : DescribeLayers(spec)) {
    json["layers"].push_back(
        {{"layers", range.layers}, {"attention", range.attention}, {"mlp", range.mlp}});
  }
  kinds.push_back(SumParameters(kinds));
  for (const ParameterKind& kind : kinds) {
    json["parameters"][kind.name] = {{"total", kind.total}, {"active", kind.active}};
  }
  AddStored(model.checkpoint(), json);
  json["cache"] = {{"dtype", cost.dtype},
                   {"bytes_per_token", cost.bytes_per_token},
                   {"other_dtype", cost.other},
                   {"mha_bytes_per_token", cost.mha},
                   {"gqa8_bytes_per_token", cost.gqa8},
                   {"mqa_bytes_per_token", cost.mqa}};
  json["unused_tensors"] = Json::array();
  for (const StoredTensor* tensor : UnusedTensors(model)) {
    json["unused_tensors"].push_back(tensor->name);
  }
  return json;
}

std::string ParameterText(std::vector<ParameterKind> kinds) {
  const ParameterKind sum = SumParameters(kinds);
  kinds.push_back(sum);
  Table table({"parameters", "total", "per token", "share"});
  for (const ParameterKind& kind : kinds) {
    table.Add({kind.name, HumanCount(static_cast<double>(kind.total)),
               HumanCount(static_cast<double>(kind.active)),
               Fixed(100.0 * static_cast<double>(kind.total) / static_cast<double>(sum.total), 1) +
                   " %"});
  }
  return table.ToString();
}

std::string StoredText(const Checkpoint& checkpoint) {
  Table table({"on disk", "tensors", "numbers", "bytes"});
  for (const auto& [dtype, kind] : CountStored(checkpoint)) {
    table.Add({dtype, WithCommas(kind.tensors), HumanCount(static_cast<double>(kind.numbers)),
               HumanBytes(static_cast<double>(kind.bytes))});
  }
  std::string text = table.ToString();
  const auto kinds = QuantisedKinds(checkpoint);
  if (!kinds.empty()) {
    Table by_kind({"quantisation by tensor", "tensors"});
    for (const auto& [kind, dtypes] : kinds) {
      std::string types;
      for (const auto& [dtype, count] : dtypes) {
        types += Concat(types.empty() ? "" : ", ", count, " ", dtype);
      }
      by_kind.Add({OneLine(kind), types});
    }
    text += by_kind.ToString();
  }
  return text;
}

std::string UnusedText(const Model& model) {
  std::string text;
  const std::vector<const StoredTensor*> unused = UnusedTensors(model);
  constexpr size_t kListed = 8;
  if (!unused.empty()) {
    text += Concat("not used: ", unused.size(), unused.size() == 1 ? " tensor" : " tensors");
    for (size_t i = 0; i < std::min(unused.size(), kListed); ++i) {
      text += Concat(i == 0 ? ": " : ", ", OneLine(unused[i]->name));
    }
    text += unused.size() > kListed ? ", ...\n" : "\n";
  }
  return text;
}

std::string CacheText(const CacheCost& cost, int32_t context) {
  Table table({"KV cache, " + cost.dtype, "bytes per token", "full context", "ratio"});
  const std::string other = cost.other == cost.dtype ? "" : Concat(", ", cost.other);
  const std::pair<std::string, int64_t> rows[] = {{"this model (measured)", cost.bytes_per_token},
                                                  {"MHA, same heads" + other, cost.mha},
                                                  {"GQA, 8 KV heads" + other, cost.gqa8},
                                                  {"MQA" + other, cost.mqa}};
  for (const auto& [name, bytes] : rows) {
    table.Add({name, WithCommas(bytes),
               HumanBytes(static_cast<double>(bytes) * static_cast<double>(context)),
               Fixed(static_cast<double>(bytes) / static_cast<double>(cost.bytes_per_token), 2)});
  }
  return table.ToString();
}

std::string ModelText(const InspectFlags& flags, const Model& model, const CacheCost& cost,
                      const GenerateOptions& generation, const std::vector<ParameterKind>& kinds) {
  const ModelSpec& spec = model.spec();
  std::string text = Concat(
      flags.session.model, ": ", spec.model_type, ", ", spec.layers.size(), " layers, hidden ",
      spec.hidden_size, ", vocabulary ", WithCommas(spec.vocab_size),
      spec.tie_embeddings ? " (tied)" : "", ", context ", WithCommas(spec.max_positions), ", BOS ",
      spec.bos_id >= 0 ? std::to_string(spec.bos_id) : "none", ", EOS ",
      JoinIds(generation.stop_ids), "\nformat: ", DescribeFormat(model.checkpoint()), "\n\n");
  for (const LayerRange& range : DescribeLayers(spec)) {
    text += Concat(range.layers.find('-') == std::string::npos ? "layer " : "layers ", range.layers,
                   "\n  ", range.attention, "\n  ", range.mlp, "\n");
  }
  return text + "\n" + ParameterText(kinds) + "\n" + StoredText(model.checkpoint()) +
         UnusedText(model) + "\n" + CacheText(cost, spec.max_positions);
}

Result<Json> SystemJson() {
  MLA_RETURN_IF_ERROR(cpu::CurrentIsaError());
  const MemoryInfo memory = ReadMemoryInfo();
  Json json;
  json["version"] = Version();
  json["commit"] = Commit();
  json["cpu"] = CpuModel();
  json["usable_cpus"] = UsableCpus();
  json["isas"] = cpu::SupportedIsas();
  json["isa"] = cpu::CurrentIsa();
  json["memory_bytes"] = memory.total_bytes;
  json["available_bytes"] = memory.available_bytes;
  MLA_ASSIGN_OR_RETURN(const std::vector<OperatorKernels> operators, ListOperatorKernels());
  for (const OperatorKernels& op : operators) {
    json["operators"][std::string(op.name)] = {
        {"kernels", op.kernels}, {"runs_f32", op.runs_f32}, {"runs_bf16", op.runs_bf16}};
  }
  json["cuda"] = CudaJson();
  return json;
}

std::string Join(const Json& names) {
  std::string text;
  for (const auto& name : names) {
    text += (text.empty() ? "" : ", ") + name.get<std::string>();
  }
  return text;
}

std::string SystemText(const Json& json) {
  std::string text = Concat(
      "mla ", Version(), " (", Commit(), ")\nCPU     ", json["cpu"].get<std::string>(), ", ",
      json["usable_cpus"].dump(), " usable CPUs\nISA     ", json["isa"].get<std::string>(), " (of ",
      Join(json["isas"]), ")\nmemory  ", HumanBytes(json["memory_bytes"].get<double>()), ", ",
      HumanBytes(json["available_bytes"].get<double>()), " available\n", CudaText(json["cuda"]),
      "\n");
  Table table({"operator", "runs in f32", "runs in bf16", "kernels, best first"});
  for (const auto& [name, op] : json["operators"].items()) {
    table.Add({name, op["runs_f32"].get<std::string>(), op["runs_bf16"].get<std::string>(),
               Join(op["kernels"])});
  }
  return text + table.ToString();
}

// The templates alone, as they are.
Status PrintTemplates(const std::string& model) {
  MLA_ASSIGN_OR_RETURN(const std::vector<NamedChatTemplate> templates, ReadChatTemplates(model));
  for (const NamedChatTemplate& entry : templates) {
    const bool several = templates.size() > 1;
    MLA_RETURN_IF_ERROR(Print(Concat(several ? Concat("{# ", entry.name, " #}\n") : "", entry.text,
                                     entry.text.ends_with('\n') ? "" : "\n")));
  }
  return {};
}

struct Inspected {
  Json json;
  std::string text;
};

Result<Inspected> InspectModel(const InspectFlags& flags, const Model& model) {
  MLA_ASSIGN_OR_RETURN(const CacheCost cost, MeasureCost(model, flags.session.ToOptions()));
  MLA_ASSIGN_OR_RETURN(const GenerateOptions generation,
                       SamplingFlags().Resolve(flags.session.model, model.spec()));
  MLA_ASSIGN_OR_RETURN(const std::vector<WeightGroup> groups,
                       ListWeights(model.spec(), model.weights()));
  const std::vector<ParameterKind> kinds = CountParameters(groups);
  const TextReport report = ReadTextReport(flags.session.model, model.checkpoint().gguf(),
                                           model.spec().bos_id, generation.stop_ids);
  Inspected result{ModelJson(flags, model, cost, generation, kinds),
                   ModelText(flags, model, cost, generation, kinds)};
  AddTextReport(report, result.json);
  result.text += "\n" + TextReportText(report);
  return result;
}

Result<Checkpoint> OpenFiles(const std::string& path) {
  if (!IsGgufPath(path)) return Checkpoint::Open(path);
  MLA_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
  return Checkpoint::FromGguf(std::move(file), {}, {});
}

// The files of a model that nothing here runs, `why` not.
Result<Inspected> InspectFiles(const std::string& path, std::string_view why) {
  MLA_ASSIGN_OR_RETURN(const Checkpoint checkpoint, OpenFiles(path));
  const TextReport report = ReadTextReport(path, checkpoint.gguf(), /*bos_id=*/-1, {});
  Inspected result;
  result.json = {{"model", path}, {"problem", why}};
  AddStored(checkpoint, result.json);
  AddTextReport(report, result.json);
  result.text = Concat(path, ": not a model that mla runs: ", OneLine(why),
                       "\nformat: ", DescribeFormat(checkpoint), "\n\n", StoredText(checkpoint),
                       "\n", TextReportText(report));
  return result;
}

Status Inspect(const InspectFlags& flags) {
  const std::string& path = flags.session.model;
  if (flags.chat_template) return PrintTemplates(path);
  Json json;
  std::string text;
  if (!path.empty()) {
    const Result<std::unique_ptr<Model>> model = LoadModel(path);
    // A download can be looked at whether it can be run or not.
    const bool runs = model.ok() || model.error().code != ErrorCode::kUnsupported;
    if (runs && !model.ok()) return model.error();
    MLA_ASSIGN_OR_RETURN(Inspected inspected,
                         runs ? InspectModel(flags, **model) : InspectFiles(path, model.message()));
    json = std::move(inspected.json);
    text = std::move(inspected.text);
  }
  if (flags.system) {
    MLA_ASSIGN_OR_RETURN(json["system"], SystemJson());
    text += (text.empty() ? "" : "\n") + SystemText(json["system"]);
  }
  return flags.json ? PrintJson(json) : Print(text);
}

}  // namespace

int InspectCommand(int argc, char** argv) {
  InspectFlags flags;
  Command command("inspect", kDescription, kExamples);
  flags.session.AddModel(command.app(), /*required=*/false);
  command.app().add_flag("--system", flags.system, "This machine, with or without a model");
  command.app().add_flag("--template", flags.chat_template,
                         "Print the model's chat template, and nothing else");
  command.app().add_flag("--json", flags.json, "Print one JSON object, with exact numbers");
  flags.session.AddCacheForm(command.app());
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  if (flags.session.model.empty() && !flags.system) {
    return command.UsageError("nothing to inspect: want MODEL, --system or both");
  }
  if (flags.chat_template && (flags.session.model.empty() || flags.system || flags.json)) {
    return command.UsageError("--template wants MODEL, and neither --system nor --json");
  }
  if (flags.session.model.empty() || flags.chat_template) {
    for (const char* flag : {"--kv-dtype", "--attention", "--compute"}) {
      if (command.app().count(flag) == 0) continue;
      return command.UsageError(Concat(flag, " is of the cache of MODEL, which is not shown here"));
    }
  }
  return command.Finish(Inspect(flags));
}

}  // namespace mla
