// mla chat: turns of one conversation, over one cache.
#include <string>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/generation.h"
#include "apps/line_editor.h"
#include "apps/output.h"
#include "apps/sampling_flags.h"
#include "apps/session_flags.h"

namespace mla {
namespace {

constexpr const char* kDescription = R"(Talks to a model line by line.

What has been said stays in the KV cache: a turn runs its new tokens only, as its statistics show.
Turns are joined as plain text, each line you type beginning a new line of it; no chat template is
applied. A base model thus continues your text. Ctrl-C ends an answer (at the prompt it clears the
line); Ctrl-D or /quit ends the conversation. /help lists what else can be typed.)";

constexpr const char* kExamples = R"(  mla chat models/stories-mla-9m
  mla chat MODEL --system "A story about two friends." -n 80
  printf 'Once upon a time\nThe next day\n' | mla chat MODEL --temperature 0)";

constexpr const char* kTurnHelp = R"(/help   this list
/reset  forget the conversation and begin anew
/stats  the cache, its size and how the model runs
/quit   end (Ctrl-D too)
Anything else is added to the text, which the model continues; // begins a line with one slash.
)";

struct ChatFlags {
  SessionFlags session;
  SamplingFlags sampling;
  std::string system;
};

class Conversation {
 public:
  Conversation(const ChatFlags& flags, const LoadedModel& loaded, Session& session,
               GenerateOptions options)
      : flags_(flags), loaded_(loaded), session_(session), options_(std::move(options)) {}

  Status Run() {
    LineEditor editor("> ");
    if (editor.interactive()) PrintError("Type a text to continue; /help lists the commands.\n");
    while (const std::optional<std::string> line = editor.Read()) {
      if (*line == "/quit") break;
      if (line->empty()) continue;
      if (line->starts_with('/') && !line->starts_with("//")) {
        RunSlashCommand(*line);
      } else {
        MLA_RETURN_IF_ERROR(TakeTurn(line->starts_with('/') ? line->substr(1) : *line));
      }
    }
    if (editor.interactive()) PrintError("\n");
    return {};
  }

 private:
  void RunSlashCommand(const std::string& line) {
    if (line == "/help") {
      PrintError(kTurnHelp);
    } else if (line == "/reset") {
      session_.Truncate(0);
      ids_.clear();
      PrintError("the conversation is forgotten\n");
    } else if (line == "/stats") {
      PrintError(Concat(DescribeCache(session_), "; context ", WithCommas(session_.context()), "\n",
                        DescribeSession(session_), "; ", DescribeSampling(options_.sampling),
                        "\n"));
    } else {
      PrintError(Concat(OneLine(line), " is no command; /help lists them\n"));
    }
  }

  // The tokens of a line: the first one follows BOS and the system text, others a line end.
  Result<std::vector<int32_t>> TurnTokens(const std::string& line) const {
    if (ids_.empty()) {
      const std::string text = flags_.system.empty() ? line : flags_.system + "\n" + line;
      return EncodePrompt(loaded_, text);
    }
    return loaded_.tokenizer->Encode("\n" + line, {.add_special_tokens = false});
  }

  // Only what cannot be helped by another line is an error of the program.
  Status TakeTurn(const std::string& line) {
    if (const Status valid = ValidateUtf8(line); !valid.ok()) {
      PrintError(Concat("this line was not taken: ", valid.message(), "\n"));
      return {};
    }
    MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> turn, TurnTokens(line));
    GenerationRequest request;
    const ptrdiff_t cached = session_.length();
    request.history.assign(ids_.begin(), ids_.begin() + cached);
    // An answer's last token is not in the cache yet where it was cut short.
    request.prompt.assign(ids_.begin() + cached, ids_.end());
    request.prompt.insert(request.prompt.end(), turn.begin(), turn.end());
    if (request.prompt.empty()) return {};
    const ptrdiff_t room = session_.context() - cached;
    if (std::ssize(request.prompt) > room) {
      PrintError(Concat("this line was not taken: its ", request.prompt.size(),
                        " tokens do not fit, the context of ", session_.context(), " has room for ",
                        room, "; /reset begins anew\n"));
      return {};
    }
    MLA_ASSIGN_OR_RETURN(const Generation generation,
                         RunGeneration(*loaded_.tokenizer, session_, request, options_));
    ids_.insert(ids_.end(), turn.begin(), turn.end());
    ids_.insert(ids_.end(), generation.ids.begin(), generation.ids.end());
    ++options_.sampling.seed;  // another turn, other random numbers, still repeatable
    return ReportTurn(generation, cached);
  }

  Status ReportTurn(const Generation& generation, int64_t cached) const {
    if (!generation.text.ends_with('\n')) MLA_RETURN_IF_ERROR(Print("\n"));
    PrintError(Concat("[", cached, " tokens kept in the cache; ", DescribeStats(generation.stats),
                      "; ", DescribeCache(session_), "]\n"));
    if (generation.stats.stop_reason == StopReason::kContextFull) {
      PrintError(Concat("the context of ", session_.context(), " tokens is full; /reset begins ",
                        "anew\n"));
    }
    return {};
  }

  const ChatFlags& flags_;
  const LoadedModel& loaded_;
  Session& session_;
  GenerateOptions options_;
  std::vector<int32_t> ids_;  // the conversation; the session holds a prefix of it
};

Status Chat(const ChatFlags& flags) {
  if (const Status valid = ValidateUtf8(flags.system); !valid.ok()) {
    return InvalidArgument("--system: ", valid.message());
  }
  MLA_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModelAndTokenizer(flags.session.model));
  MLA_ASSIGN_OR_RETURN(const GenerateOptions options,
                       flags.sampling.Resolve(flags.session.model, loaded.model->spec()));
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                       Session::Create(*loaded.model, flags.session.ToOptions()));
  return Conversation(flags, loaded, *session, options).Run();
}

}  // namespace

int ChatCommand(int argc, char** argv) {
  ChatFlags flags;
  Command command("chat", kDescription, kExamples);
  flags.session.AddModel(command.app());
  command.app()
      .add_option("--system", flags.system, "A text that stands before the first turn")
      ->type_name("TEXT");
  flags.sampling.Add(command.app());
  flags.session.AddSession(command.app());
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  return command.Finish(Chat(flags));
}

}  // namespace mla
