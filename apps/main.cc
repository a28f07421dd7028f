// The program `mla`: finds the subcommand and hands it the arguments.
#include <signal.h>

#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/output.h"
#include "apps/version.h"
#include "base/edit_distance.h"
#include "io/json.h"

namespace mla {
namespace {

struct Subcommand {
  std::string_view name;
  std::string_view summary;
  int (*run)(int argc, char** argv);
};

constexpr Subcommand kCommands[] = {
    {"run", "continue a prompt, streaming the text", RunCommand},
    {"chat", "talk to a model line by line, its cache kept between turns", ChatCommand},
    {"logits", "write the logits of given tokens to a safetensors file", LogitsCommand},
    {"perplexity", "score a text: nll per token and perplexity", PerplexityCommand},
    {"tokenize", "text to token ids and pieces, and back", TokenizeCommand},
    {"inspect", "what a model is made of, what its cache costs; this machine", InspectCommand},
    {"quantize", "write a model as a GGUF file, quantised or not", QuantizeCommand},
    {"bench", "measure prefill and decode tokens per second", BenchCommand},
    {"plan", "what a model takes: parameters, memory, speed at best", PlanCommand},
    {"compare", "forms of attention, layers or models side by side, measured", CompareCommand},
};

std::string Overview() {
  std::string text = R"(Models with Multi-head Latent Attention (MLA), run on this machine.

Usage: mla COMMAND [ARGUMENTS]

Commands (mla COMMAND --help says more):
)";
  for (const Subcommand& command : kCommands) {
    text += Concat("  ", command.name, std::string(12 - command.name.size(), ' '), command.summary,
                   "\n");
  }
  return text + R"(
Options:
  -h, --help  Print this help and end
  --version   Print the version and end

A MODEL is a Hugging Face directory (config.json, *.safetensors, and tokenizer.json,
tokenizer.model or tiktoken.model) or a GGUF file. Exit status: 0, 1 after an error, 2 for wrong
usage.

Examples:
  mla run models/stories-mla-9m -p "One day, a dragon"
  mla inspect models/stories-mla-9m
  mla inspect --system
  mla bench models/stories-mla-9m
)";
}

int UnknownCommand(std::string_view name) {
  std::string all;
  const Subcommand* nearest = nullptr;
  size_t nearest_distance = 3;  // further is no misspelling
  for (const Subcommand& command : kCommands) {
    all += Concat(all.empty() ? "" : ", ", command.name);
    const size_t distance = EditDistance(name.substr(0, 32), command.name);
    if (distance < nearest_distance) {
      nearest = &command;
      nearest_distance = distance;
    }
  }
  const std::string hint = nearest != nullptr ? Concat("did you mean ", nearest->name, "?")
                                              : Concat("want one of ", all);
  return ReportError("mla", Concat("no command is called ", Quote(name), "; ", hint), kExitUsage);
}

int PrintAndExit(const std::string& text) {
  const Status status = Print(text);
  if (status.ok() || OutputClosed()) return 0;
  return ReportError("mla", status.message(), kExitError);
}

int Main(int argc, char** argv) {
  // A closed pipe and a file that may not grow are seen where we write, as errors.
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  if (argc < 2) {
    PrintError(Overview());
    return kExitUsage;
  }
  const std::string_view name = argv[1];
  if (name == "--help" || name == "-h" || name == "help") return PrintAndExit(Overview());
  if (name == "--version") return PrintAndExit(Concat("mla ", Version(), " (", Commit(), ")\n"));
  for (const Subcommand& command : kCommands) {
    if (command.name == name) return command.run(argc - 1, argv + 1);
  }
  return UnknownCommand(name);
}

}  // namespace
}  // namespace mla

int main(int argc, char** argv) {
  try {
    return mla::Main(argc, argv);
  } catch (const std::bad_alloc&) {
    mla::PrintError("mla: error: there is not enough memory\n");
  } catch (const std::exception& error) {
    mla::ReportError("mla", error.what(), mla::kExitError);
  }
  return mla::kExitError;
}
