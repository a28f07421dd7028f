#include "model/gguf_export.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/threads.h"
#include "io/config.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/tokenizer/gguf_tokenizer_writer.h"
#include "model/gguf_layout.h"
#include "model/gguf_metadata.h"
#include "model/gguf_model.h"
#include "tensor/quant_blocks.h"

namespace mla {
namespace {

constexpr float kMaxF16 = 65504;
constexpr std::string_view kFileType = "general.file_type";
constexpr std::string_view kQuantVersion = "general.quantization_version";
constexpr std::string_view kAlignment = "general.alignment";

struct ExportType {
  std::string_view name;
  StoredDType dtype;
  uint32_t file_type;  // general.file_type: what most tensors are
};
constexpr ExportType kTypes[] = {
    {"f32", StoredDType::kF32, 0},    {"f16", StoredDType::kF16, 1},
    {"bf16", StoredDType::kBF16, 32}, {"q8_0", StoredDType::kQ8_0, 7},
    {"q4_0", StoredDType::kQ4_0, 2},  {"q5_0", StoredDType::kQ5_0, 8},
    {"q4_k", StoredDType::kQ4_K, 14}, {"q5_k", StoredDType::kQ5_K, 16},
    {"q6_k", StoredDType::kQ6_K, 18},
};

uint32_t FileType(StoredDType dtype) {
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const ExportType& t) { return t.dtype == dtype; });
  return found->file_type;
}

int64_t BlockOf(StoredDType dtype) { return GgufTensorTypeOf(dtype).block_elements; }

// What operators and quant_blocks call the type.
DType ComputedType(StoredDType dtype) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0,
                           DType::kQ5_0, DType::kQ4_K, DType::kQ5_K}) {
    if (ToStoredDType(type) == dtype) return type;
  }
  return DType::kQ6_K;
}

void Note(const GgufExportOptions& options, const std::string& line) {
  if (options.note) options.note(line);
}

// Makes the data of planned tensors and keeps count of them.
class Producer {
 public:
  Producer(const GgufExportOptions& options, std::vector<GgufTensorPlan> plans)
      : options_(options), plans_(std::move(plans)) {
    const bool tied = std::none_of(plans_.begin(), plans_.end(),
                                   [](const auto& plan) { return plan.name == "output.weight"; });
    std::map<std::string, std::vector<std::string>> fallbacks;  // by what they are, not what wanted
    for (const GgufTensorPlan& plan : plans_) {
      const StoredDType dtype = GgufExportType(plan.name, options.type, plan.stored,
                                               plan.shape.size(), plan.cols(), tied);
      TensorSource source;
      source.tensor.name = plan.name;
      source.tensor.dtype = dtype;
      source.tensor.shape = plan.shape;
      source.produce = [this, &plan, dtype](const TensorSource::Write& write) {
        return Produce(plan, dtype, write);
      };
      sources_.push_back(std::move(source));
      ++report_.tensors[std::string(StoredDTypeName(dtype))];
      report_.numbers += plan.rows() * plan.cols();
      report_.bytes += *ByteSize(dtype, plan.shape);
      // With rows of any length, what would it have been?
      const StoredDType wanted =
          GgufExportType(plan.name, options.type, plan.stored, plan.shape.size(),
                         BlockOf(StoredDType::kQ6_K), tied);
      if (wanted != dtype) {
        fallbacks[Concat(StoredDTypeName(dtype), ", not ", StoredDTypeName(wanted), " (rows of ",
                         plan.cols(), " are no multiple of ", BlockOf(wanted), ")")]
            .push_back(plan.name);
      }
    }
    for (const auto& [what, names] : fallbacks) Note(options, Concat(Shorten(names), what));
  }
  Producer(const Producer&) = delete;
  Producer& operator=(const Producer&) = delete;

  std::span<const TensorSource> sources() const { return sources_; }
  const GgufExportReport& report() const { return report_; }

 private:
  // "blk.0.attn_k_b.weight is ", "24 tensors (blk.*.attn_k_b.weight, ...) are "
  static std::string Shorten(const std::vector<std::string>& names) {
    std::vector<std::string> kinds;
    for (const std::string& name : names) {
      const size_t dot = name.starts_with("blk.") ? name.find('.', 4) : std::string::npos;
      std::string kind = dot == std::string::npos ? name : "blk.*" + name.substr(dot);
      if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
        kinds.push_back(std::move(kind));
      }
    }
    std::string list;
    for (const std::string& kind : kinds) list += (list.empty() ? "" : ", ") + kind;
    if (names.size() == 1) return names[0] + " is ";
    return Concat(names.size(), " tensors (", list, ") are ");
  }

  // Some millions of numbers at a time, units shared out among the threads: units are independent,
  // so the result does not depend on them.
  Status Produce(const GgufTensorPlan& plan, StoredDType stored, const TensorSource::Write& write) {
    const DType dtype = ComputedType(stored);
    constexpr int64_t kChunkNumbers = 4 << 20;
    const int64_t cols = plan.cols(), unit = plan.unit, units = plan.rows() / unit;
    const int64_t unit_bytes = unit * RowBytes(dtype, cols);
    const int64_t chunk = std::max<int64_t>(kChunkNumbers / (unit * cols), 1);
    std::vector<std::byte> bytes(std::min(chunk, units) * unit_bytes);
    for (int64_t begin = 0; begin < units; begin += chunk) {
      const int64_t count = std::min(chunk, units - begin);
      std::atomic<int64_t> bad{-1};  // a unit with a number that the type cannot hold
      ParallelFor(options_.threads, count, [&](int64_t i, int) {
        std::vector<float> values(unit * cols);
        plan.read_unit(begin + i, values.data());
        if (!Fits(values, dtype)) bad = begin + i;
        for (int64_t row = 0; row < unit; ++row) {
          QuantiseRow(dtype, values.data() + row * cols, cols,
                      bytes.data() + i * unit_bytes + row * RowBytes(dtype, cols));
        }
      });
      if (bad >= 0) return BadNumber(plan, stored, bad);
      MLA_RETURN_IF_ERROR(write(std::span(bytes).first(count * unit_bytes)));
      done_ += count * unit * cols;
      if (options_.progress && !options_.progress(done_, report_.numbers)) {
        return Error{ErrorCode::kCancelled,
                     Concat("stopped after ", done_, " of ", report_.numbers, " numbers")};
      }
    }
    return {};
  }

  static float Limit(DType dtype) {
    return dtype == DType::kF32 || dtype == DType::kBF16 ? INFINITY : kMaxF16;
  }

  static bool Fits(const std::vector<float>& values, DType dtype) {
    const float limit = Limit(dtype);
    return std::all_of(values.begin(), values.end(),
                       [limit](float v) { return std::isfinite(v) && std::fabs(v) <= limit; });
  }

  static Error BadNumber(const GgufTensorPlan& plan, StoredDType stored, int64_t unit) {
    std::vector<float> values(plan.unit * plan.cols());
    plan.read_unit(unit, values.data());
    const float limit = Limit(ComputedType(stored));
    size_t at = 0;
    while (std::isfinite(values[at]) && std::fabs(values[at]) <= limit) ++at;
    const auto cols = static_cast<size_t>(plan.cols());
    return InvalidArgument("tensor ", Quote(plan.name), " holds ", values[at], " in row ",
                           unit * plan.unit + static_cast<int64_t>(at / cols), ", column ",
                           at % cols, ", want a number up to ", limit, " for ",
                           StoredDTypeName(stored));
  }

  const GgufExportOptions& options_;
  const std::vector<GgufTensorPlan> plans_;
  std::vector<TensorSource> sources_;
  GgufExportReport report_;
  int64_t done_ = 0;
};

bool IsPlain(StoredDType dtype) {
  return dtype == StoredDType::kF32 || dtype == StoredDType::kF16 || dtype == StoredDType::kBF16;
}

// A warning about weights that have lost something before.
void NoteQuantised(const std::map<std::string, int64_t>& types, const GgufExportOptions& options) {
  if (types.empty()) return;
  std::string list;
  for (const auto& [name, count] : types) {
    list += Concat(list.empty() ? "" : ", ", count, " ", name);
  }
  Note(options,
       Concat("the source is quantised already (", list, "): what was lost there stays lost"));
}

// Reads the header back: the model that the file will hold must be the one at hand.
Status CheckHeader(const Model& model, const std::string& dir, const GgufMetadata& metadata,
                   std::span<const TensorSource> sources) {
  MLA_ASSIGN_OR_RETURN(std::string header, GgufHeader(metadata, sources));
  if (sources[0].tensor.name == "rope_freqs.weight") {
    const std::span<const std::byte> data = sources[0].tensor.data;
    header.append(reinterpret_cast<const char*>(data.data()), data.size());
  }
  MLA_ASSIGN_OR_RETURN(const GgufFile file,
                       GgufFile::ParseHeader(std::as_bytes(std::span(header)), dir));
  MLA_ASSIGN_OR_RETURN(const ModelSpec written, ReadGgufSpec(file));
  if (const auto difference = GgufDifference(model.spec(), written)) {
    return Unsupported(dir, ": a GGUF file of architecture ", GgufArchitecture(model.spec()),
                       " cannot state this model: ", *difference);
  }
  return {};
}

Status AddTokenizer(const ModelSpec& spec, const std::string& dir, const GgufExportOptions& options,
                    GgufMetadata& metadata) {
  GgufTokenizerOptions tokenizer{spec.vocab_size, spec.bos_id, spec.eos_ids};
  tokenizer.eos_ids.insert(tokenizer.eos_ids.end(), options.eos_ids.begin(), options.eos_ids.end());
  const Result<std::vector<std::string>> notes = AddGgufTokenizer(dir, tokenizer, metadata);
  if (notes.ok()) {
    for (const std::string& note : *notes) Note(options, note);
    return {};
  }
  if (notes.error().code != ErrorCode::kNotFound) return notes.error();
  metadata.Str("tokenizer.ggml.model", "none");
  Note(options, Concat(notes.message(), ": the file will have none either"));
  return {};
}

void NoteEpsilon(const ModelSpec& spec, const GgufExportOptions& options) {
  const auto* mla = std::get_if<MlaSpec>(&spec.layers[0].attention);
  if (mla == nullptr || mla->latent_norm_eps == spec.norm_eps) return;
  Note(options, Concat("GGUF has one epsilon for all norms, ", spec.norm_eps,
                       ": programs may use it for the latents' too, which the model norms with ",
                       mla->latent_norm_eps));
}

}  // namespace

std::optional<StoredDType> ParseGgufExportType(std::string_view name) {
  for (const ExportType& type : kTypes) {
    if (type.name == name) return type.dtype;
  }
  return std::nullopt;
}

StoredDType GgufExportType(std::string_view name, StoredDType wanted, StoredDType stored,
                           size_t rank, int64_t cols, bool tied) {
  const bool matrix = rank > 1 && name.ends_with(".weight") &&
                      name.find("_norm") == std::string_view::npos &&
                      name.find("ffn_gate_inp") == std::string_view::npos;
  if (!matrix) return StoredDType::kF32;
  if (IsPlain(wanted)) return wanted;
  StoredDType type = wanted;
  const bool head = name == "output.weight" || (tied && name == "token_embd.weight");
  if (head && wanted != StoredDType::kQ8_0) type = StoredDType::kQ6_K;
  if (cols % BlockOf(type) == 0) return type;
  if (cols % BlockOf(StoredDType::kQ8_0) != 0) {
    return stored == StoredDType::kBF16 ? stored : StoredDType::kF16;
  }
  return type == StoredDType::kQ4_K ? StoredDType::kQ5_0 : StoredDType::kQ8_0;
}

Result<GgufExportReport> ExportGguf(const Model& model, const std::string& dir,
                                    const std::string& path, const GgufExportOptions& options) {
  const ModelSpec& spec = model.spec();
  MLA_ASSIGN_OR_RETURN(const nlohmann::json config, ReadConfigFile(dir));
  GgufMetadata metadata;
  metadata.Str("general.architecture", GgufArchitecture(spec));
  metadata.Str("general.type", "model");
  const std::filesystem::path full = std::filesystem::absolute(dir).lexically_normal();
  metadata.Str("general.name",
               (full.has_filename() ? full : full.parent_path()).filename().string());
  metadata.U32(kFileType, FileType(options.type));
  metadata.U32(kQuantVersion, 2);
  MLA_RETURN_IF_ERROR(AddGgufModel(spec, config, metadata));

  MLA_ASSIGN_OR_RETURN(const std::vector<float> factors, GgufRopeFactors(spec, config));
  Producer producer(options, PlanGgufTensors(spec, model.weights()));
  std::vector<TensorSource> sources;
  if (!factors.empty()) {
    // First, so that the header can be checked with it.
    StoredTensor tensor{"rope_freqs.weight",
                        StoredDType::kF32,
                        {std::ssize(factors)},
                        std::as_bytes(std::span(factors))};
    sources.push_back({std::move(tensor), nullptr});
  }
  sources.insert(sources.end(), producer.sources().begin(), producer.sources().end());
  MLA_RETURN_IF_ERROR(CheckHeader(model, dir, metadata, sources));
  MLA_RETURN_IF_ERROR(AddTokenizer(spec, dir, options, metadata));
  NoteEpsilon(spec, options);
  std::map<std::string, int64_t> quantised;
  for (const StoredTensor* tensor : model.checkpoint().tensors()) {
    if (tensor->dtype == StoredDType::kF8E4M3) ++quantised["F8_E4M3"];
  }
  NoteQuantised(quantised, options);
  MLA_RETURN_IF_ERROR(WriteGguf(path, metadata, sources));
  return producer.report();
}

Result<GgufExportReport> RequantiseGguf(const std::string& from, const std::string& path,
                                        const GgufExportOptions& options) {
  MLA_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(from));
  GgufMetadata metadata;
  for (const GgufEntry& entry : file.metadata()) {
    if (entry.key == kFileType) metadata.U32(kFileType, FileType(options.type));
    // Written with the usual one.
    if (entry.key != kAlignment) metadata.Copy(entry);
  }
  metadata.U32(kFileType, FileType(options.type));
  metadata.U32(kQuantVersion, 2);
  std::vector<GgufTensorPlan> plans;
  std::map<std::string, int64_t> quantised;
  for (const GgufTensor& tensor : file.tensors()) {
    GgufTensorPlan& plan = plans.emplace_back();
    plan.name = tensor.name;
    plan.shape = tensor.shape;
    plan.stored = tensor.type->stored.value_or(StoredDType::kF16);
    if (tensor.type->block_elements > 1) ++quantised[std::string(tensor.type->name)];
    plan.read_unit = [&tensor, cols = tensor.shape.back()](int64_t row, float* to) {
      const int64_t bytes = cols / tensor.type->block_elements * tensor.type->block_bytes;
      DecodeGgufRow(*tensor.type, tensor.data.data() + row * bytes, cols, to);
    };
  }
  if (plans.empty()) return CorruptFile(from, ": has no tensors");
  NoteQuantised(quantised, options);
  Producer producer(options, std::move(plans));
  MLA_RETURN_IF_ERROR(WriteGguf(path, metadata, producer.sources()));
  return producer.report();
}

}  // namespace mla
