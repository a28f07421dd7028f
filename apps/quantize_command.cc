// mla quantize: a model as one GGUF file.
#include <optional>
#include <string>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/interrupt.h"
#include "apps/model_files.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/sampling_flags.h"
#include "apps/session_flags.h"
#include "base/threads.h"
#include "model/gguf_export.h"
#include "model/gguf_model.h"

namespace mla {
namespace {

constexpr const char* kDescription =
    R"(Writes a model as a GGUF file that other programs of the format read: weights in the type asked
for, metadata, tokenizer and chat template.

MODEL is a Hugging Face directory, or a GGUF file to be written in another type. Norms, biases and
the routers of mixtures stay f32; with 4 and 5 bits the output head is q6_k. Rows that are no whole
blocks get a type that fits, and which ones is said. A model with a setting that GGUF cannot state is
refused. The file is replaced only when all is written.)";

constexpr const char* kExamples =
    R"(  mla quantize models/stories-mla-9m -o stories.gguf --type q8_0
  mla quantize MODEL -o model-q4_k.gguf --type q4_k && mla run model-q4_k.gguf -p "Once"
  mla quantize model-bf16.gguf -o model-q6_k.gguf --type q6_k)";

struct QuantizeFlags {
  std::string model, output, type;
  int32_t threads = 0;
};

void Note(const std::string& line) { PrintError(Concat("note: ", OneLine(line), "\n")); }

// Writes while `guard`, made when nothing is left to do but writing, sees no signal.
Result<GgufExportReport> Export(const QuantizeFlags& flags, GgufExportOptions& options,
                                std::optional<InterruptGuard>& guard) {
  if (IsGgufPath(flags.model)) {
    guard.emplace(kEndingSignals);
    return RequantiseGguf(flags.model, flags.output, options);
  }
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel(flags.model));
  MLA_ASSIGN_OR_RETURN(const GenerationDefaults defaults,
                       ReadGenerationDefaults(flags.model, model->spec()));
  options.eos_ids = defaults.eos_ids;
  guard.emplace(kEndingSignals);
  return ExportGguf(*model, flags.model, flags.output, options);
}

std::string Describe(const GgufExportReport& report) {
  std::string types;
  for (const auto& [name, count] : report.tensors) {
    types += Concat(types.empty() ? "" : ", ", count, " ", name);
  }
  const double bits = 8.0 * static_cast<double>(report.bytes) / static_cast<double>(report.numbers);
  return Concat(HumanBytes(static_cast<double>(report.bytes)), " of tensors (", types, "), ",
                Fixed(bits, 2), " bits per weight");
}

Status Quantize(const QuantizeFlags& flags) {
  MLA_RETURN_IF_ERROR(RefuseModelFile("--output", flags.output, flags.model));
  ThreadPool threads(flags.threads > 0 ? flags.threads : UsableCpus());
  std::optional<ProgressBar> bar;
  std::optional<InterruptGuard> guard;
  GgufExportOptions options;
  options.type = *ParseGgufExportType(flags.type);
  options.threads = &threads;
  options.note = Note;
  options.progress = [&](int64_t done, int64_t total) {
    if (!bar) bar.emplace("quantize", total);
    bar->Update(done);
    return !guard->interrupted();
  };
  const Result<GgufExportReport> report = Export(flags, options, guard);
  bar.reset();
  if (!report.ok()) {
    if (report.error().code == ErrorCode::kCancelled) guard->EndProgramIfInterrupted();
    return report.error();
  }
  PrintError(Concat("wrote ", OneLine(flags.output), ": ", Describe(*report), "\n"));
  return {};
}

}  // namespace

int QuantizeCommand(int argc, char** argv) {
  QuantizeFlags flags;
  Command command("quantize", kDescription, kExamples);
  CLI::App& app = command.app();
  app.add_option("MODEL", flags.model, "Hugging Face directory, or GGUF file")
      ->required()
      ->check(NotEmpty())
      ->type_name("");
  app.add_option("-o,--output", flags.output, "The file to write")->required()->type_name("FILE");
  app.add_option("--type", flags.type,
                 "Of the weights: f32, f16, bf16, q8_0 (8.5 bits per weight), q6_k (6.6),\n"
                 "q5_0, q5_k (5.5), q4_0, q4_k (4.5)")
      ->required()
      ->check(OneOf({"f32", "f16", "bf16", "q8_0", "q4_0", "q5_0", "q4_k", "q5_k", "q6_k"}))
      ->type_name("TYPE");
  app.add_option("--threads", flags.threads, "CPU threads (default: one per usable CPU)")
      ->check(IntRange(1, 1024))
      ->type_name("N");
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  return command.Finish(Quantize(flags));
}

}  // namespace mla
