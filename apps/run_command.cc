// mla run: continues a prompt.
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/generation.h"
#include "apps/output.h"
#include "apps/sampling_flags.h"
#include "apps/session_flags.h"

namespace mla {
namespace {

constexpr const char* kDescription = R"(Continues a prompt with a model, streaming the text.

MODEL defaults to models/stories-mla-9m where that directory exists. Without -p the prompt is read
from standard input, if that is not a terminal; without any prompt the model begins a text of its
own. Sampling defaults to what MODEL/generation_config.json says. Statistics go to standard error.
Ctrl-C ends the text.)";

constexpr const char* kExamples = R"(  mla run
  mla run models/stories-mla-9m -p "One day, a dragon" -n 100
  mla run MODEL -p "Once upon a time" --temperature 0 --compute f32
  mla run MODEL -p "Once upon a time" --seed 17 --json
  echo "The little boat" | mla run MODEL --top-p 0.9)";

struct RunFlags {
  SessionFlags session;
  SamplingFlags sampling;
  std::optional<std::string> prompt;
  bool no_echo = false;
  bool json = false;
};

// The prompt of -p, else of standard input without its last line end, else nothing.
Result<std::string> ReadPrompt(const RunFlags& flags) {
  if (flags.prompt) {
    if (const Status valid = ValidateUtf8(*flags.prompt); !valid.ok()) {
      return InvalidArgument("prompt: ", valid.message());
    }
    return *flags.prompt;
  }
  if (::isatty(STDIN_FILENO) != 0) return std::string();
  MLA_ASSIGN_OR_RETURN(std::string text, ReadText("-"));
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

Result<std::vector<int32_t>> PromptIds(const LoadedModel& loaded, const std::string& prompt,
                                       int32_t context) {
  MLA_ASSIGN_OR_RETURN(std::vector<int32_t> ids, EncodePrompt(loaded, prompt));
  if (ids.empty()) {
    const int32_t bos = BosId(loaded);
    if (bos < 0) return InvalidArgument("the model has no BOS token to begin with: give a prompt");
    ids.push_back(bos);
  }
  if (ids.size() > static_cast<size_t>(context)) {
    return InvalidArgument("the prompt has ", ids.size(), " tokens, want at most ", context,
                           ", the context");
  }
  return ids;
}

Status PrintResult(const RunFlags& flags, const std::string& prompt,
                   const std::vector<int32_t>& prompt_ids, const Generation& generation,
                   const GenerateOptions& options, const Session& session) {
  if (flags.json) {
    nlohmann::ordered_json json;
    json["model"] = flags.session.model;
    json["prompt"] = prompt;
    json["prompt_ids"] = prompt_ids;
    json["text"] = generation.text;
    json["ids"] = generation.ids;
    json["sampling"] = SamplingJson(options.sampling);
    json["stats"] = StatsJson(generation.stats, session);
    return PrintJson(json);
  }
  if (!generation.text.ends_with('\n')) MLA_RETURN_IF_ERROR(Print("\n"));
  PrintError(Concat("\n", DescribeStats(generation.stats), "\n", DescribeCache(session), "\n",
                    DescribeSession(session), "; ", DescribeSampling(options.sampling), "\n"));
  return {};
}

Status Run(const RunFlags& flags) {
  MLA_ASSIGN_OR_RETURN(const std::string prompt, ReadPrompt(flags));
  MLA_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModelAndTokenizer(flags.session));
  MLA_ASSIGN_OR_RETURN(const GenerateOptions options,
                       flags.sampling.Resolve(flags.session.model, loaded.model->spec()));
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                       Session::Create(*loaded.model, flags.session.ToOptions()));
  GenerationRequest request;
  MLA_ASSIGN_OR_RETURN(request.prompt, PromptIds(loaded, prompt, session->context()));
  request.print = !flags.json;
  if (!flags.no_echo) request.echo = prompt;
  MLA_ASSIGN_OR_RETURN(const Generation generation,
                       RunGeneration(*loaded.tokenizer, *session, request, options));
  return PrintResult(flags, prompt, request.prompt, generation, options, *session);
}

}  // namespace

int RunCommand(int argc, char** argv) {
  RunFlags flags;
  Command command("run", kDescription, kExamples);
  flags.session.AddModel(command.app(), /*required=*/false);
  command.app().add_option("-p,--prompt", flags.prompt, "The text to continue")->type_name("TEXT");
  flags.sampling.Add(command.app());
  flags.session.AddSession(command.app());
  command.app().add_flag("--no-echo", flags.no_echo, "Print the new text only, not the prompt");
  command.app().add_flag("--json", flags.json, "Print one JSON object at the end instead of text");
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  if (flags.session.model.empty()) {
    std::error_code ignored;
    if (!std::filesystem::is_directory(kBundledModel, ignored)) {
      return command.UsageError(Concat("no MODEL is given, and the default, ", kBundledModel,
                                       ", is not in this directory"));
    }
    flags.session.model = kBundledModel;
  }
  return command.Finish(Run(flags));
}

}  // namespace mla
