// mla logits: the model's output for given tokens, for comparison with other implementations.
#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/interrupt.h"
#include "apps/model_files.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/session_flags.h"
#include "io/read_file.h"
#include "io/safetensors.h"

namespace mla {
namespace {

constexpr const char* kDescription =
    R"(Writes the logits of every position of a token sequence to a safetensors file.

The file holds one tensor, logits [n, vocab] F32: row i is what the model predicts after tokens 0 to
i. The tokens are run exactly as given: no BOS is added. The file is replaced only when all is
written.)";

constexpr const char* kExamples =
    R"(  mla logits models/stories-mla-9m --tokens 0,393,394,261 -o logits.safetensors --compute f32
  mla logits MODEL --tokens @ids.txt -o logits.safetensors --attention expanded
  mla tokenize MODEL --bos "Once upon a time" --ids | mla logits MODEL --tokens - -o l.safetensors)";

struct LogitsFlags {
  SessionFlags session;
  std::string tokens;
  std::string output;
};

// The ids of --tokens: a list, @FILE, or - for standard input.
Result<std::vector<int32_t>> ReadIds(const std::string& tokens, const ModelSpec& spec) {
  const int32_t last = spec.vocab_size - 1;
  if (tokens != "-" && !tokens.starts_with('@')) return ParseIntList(tokens, "--tokens", 0, last);
  const std::string path = tokens == "-" ? tokens : tokens.substr(1);
  MLA_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  return ParseIntList(text, path == "-" ? "standard input" : path, 0, last);
}

// Ends the program when a signal asks for it, what was written so far having been removed.
Status WriteUnlessInterrupted(const std::string& path, TensorSource& source) {
  const InterruptGuard guard(kEndingSignals);
  const auto produce = std::move(source.produce);
  source.produce = [&](const TensorSource::Write& write) {
    return produce([&](std::span<const std::byte> bytes) -> Status {
      if (guard.interrupted()) return Error{ErrorCode::kCancelled, "stopped by a signal"};
      return write(bytes);
    });
  };
  Status status = WriteSafetensors(path, {&source, 1});
  if (!status.ok() && status.error().code == ErrorCode::kCancelled) {
    guard.EndProgramIfInterrupted();
  }
  return status;
}

Status WriteLogits(const LogitsFlags& flags) {
  MLA_RETURN_IF_ERROR(RefuseModelFile("--output", flags.output, flags.session.model));
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel(flags.session));
  MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ReadIds(flags.tokens, model->spec()));
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                       Session::Create(*model, flags.session.ToOptions()));
  if (ids.size() > static_cast<size_t>(session->context())) {
    return InvalidArgument("--tokens has ", ids.size(), " tokens, want at most ",
                           session->context(), ", the context");
  }

  TensorSource source;
  source.tensor.name = "logits";
  source.tensor.dtype = StoredDType::kF32;
  source.tensor.shape = {std::ssize(ids), model->spec().vocab_size};
  // Written as they are computed: all of them together may be larger than the model.
  source.produce = [&](const TensorSource::Write& write) -> Status {
    ProgressBar bar("logits", std::ssize(ids));
    return session->Score(ids, [&](const ConstTensor& logits) -> Status {
      const std::span<const float> values(logits.as<float>(), logits.num_elements());
      bar.Update(session->length());
      return write(std::as_bytes(values));
    });
  };
  MLA_RETURN_IF_ERROR(WriteUnlessInterrupted(flags.output, source));
  PrintError(Concat("wrote ", flags.output, ": logits ", ShapeString(source.tensor.shape), " F32; ",
                    DescribeSession(*session), "\n"));
  return {};
}

}  // namespace

int LogitsCommand(int argc, char** argv) {
  LogitsFlags flags;
  Command command("logits", kDescription, kExamples);
  flags.session.AddModel(command.app());
  command.app()
      .add_option("--tokens", flags.tokens, "Token ids: 0,17,52; @FILE; - for standard input")
      ->required()
      ->type_name("IDS");
  command.app()
      .add_option("-o,--output", flags.output, "The file to write")
      ->required()
      ->type_name("FILE");
  flags.session.AddSession(command.app());
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  return command.Finish(WriteLogits(flags));
}

}  // namespace mla
