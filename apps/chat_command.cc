// mla chat: turns of one conversation, over one cache.
#include <algorithm>
#include <ctime>
#include <memory>
#include <string>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/generation.h"
#include "apps/line_editor.h"
#include "apps/output.h"
#include "apps/sampling_flags.h"
#include "apps/session_flags.h"
#include "io/chat_template/chat_template.h"
#include "io/read_file.h"

namespace mla {
namespace {

constexpr const char* kDescription = R"(Talks to a model line by line.

The conversation is written as the model's own chat template has it (chat_template.jinja,
tokenizer_config.json or the GGUF file's), or the one of --template. What has been said stays in the
KV cache: a turn runs its new tokens only, as its statistics show. What you type never becomes a
special token. Without a template turns are joined as plain text, each line you type beginning a new
line of it: a base model thus continues your text.
Ctrl-C ends an answer (at the prompt it clears the line); Ctrl-D or /quit ends the conversation.
/help lists what else can be typed.)";

constexpr const char* kExamples = R"(  mla chat models/stories-mla-9m
  mla chat MODEL --system "You answer in one sentence." -n 80
  mla chat MODEL --template my_template.jinja
  printf 'Once upon a time\nThe next day\n' | mla chat MODEL --temperature 0)";

constexpr const char* kTurnHelp = R"(/help   this list
/reset  forget the conversation and begin anew
/system TEXT  what the conversation begins with from now on; nothing to leave it out
/stats  the cache, its size and how the model runs
/quit   end (Ctrl-D too)
Anything else is said to the model; // begins a line with one slash.
)";

struct ChatFlags {
  SessionFlags session;
  SamplingFlags sampling;
  std::string system;
  std::string template_file;
  bool no_template = false;
};

std::tm LocalTime() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  return local;
}

class Conversation {
 public:
  // `chat_template`: null for plain text.
  Conversation(std::string system, const ChatTemplate* chat_template, const LoadedModel& loaded,
               Session& session, GenerateOptions options)
      : system_(std::move(system)),
        template_(chat_template),
        loaded_(loaded),
        encoder_(*loaded.tokenizer),
        session_(session),
        options_(std::move(options)) {}

  Status Run() {
    LineEditor editor("> ");
    if (editor.interactive())
      PrintError(template_ != nullptr ? "Say something; /help lists the commands.\n"
                                      : "Type a text to continue; /help lists the commands.\n");
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
      Forget();
      PrintError("the conversation is forgotten\n");
    } else if (line == "/system" || line.starts_with("/system ")) {
      SetSystem(line.size() > 8 ? line.substr(8) : "");
    } else if (line == "/stats") {
      PrintError(Concat(DescribeCache(session_), "; context ", WithCommas(session_.context()), "\n",
                        DescribeSession(session_), "; ", DescribeSampling(options_.sampling),
                        "\n"));
    } else {
      PrintError(Concat(OneLine(line), " is no command; /help lists them\n"));
    }
  }

  void Forget() {
    session_.Truncate(0);
    ids_.clear();
    messages_.clear();
  }

  // Plain text cannot be changed at its beginning: it begins anew. A template writes all again.
  void SetSystem(std::string text) {
    if (const Status valid = ValidateUtf8(text); !valid.ok()) {
      PrintError(Concat("the system text was not taken: ", valid.message(), "\n"));
      return;
    }
    system_ = std::move(text);
    if (template_ == nullptr) Forget();
    PrintError(Concat("the conversation begins with ",
                      system_.empty() ? "no system text" : "this system text",
                      template_ == nullptr ? "; what was said is forgotten\n" : "\n"));
  }

  // The first line follows BOS and the system text, others a line end.
  Result<std::vector<int32_t>> PlainTokens(const std::string& line) const {
    if (ids_.empty()) {
      return EncodePrompt(loaded_, system_.empty() ? line : system_ + "\n" + line);
    }
    std::vector<int32_t> ids = ids_;
    MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> turn,
                         loaded_.tokenizer->Encode("\n" + line, {.add_special_tokens = false}));
    ids.insert(ids.end(), turn.begin(), turn.end());
    return ids;
  }

  Result<std::vector<int32_t>> TemplateTokens(const std::string& line) const {
    ChatInput input;
    input.now = LocalTime();
    input.add_generation_prompt = true;
    if (!system_.empty()) input.messages.push_back({{"role", "system"}, {"content", system_}});
    for (const auto& message : messages_) input.messages.push_back(message);
    input.messages.push_back({{"role", "user"}, {"content", line}});
    MLA_ASSIGN_OR_RETURN(const RenderedChat chat, template_->Render(input));
    MLA_ASSIGN_OR_RETURN(std::vector<int32_t> ids, encoder_.Encode(chat));
    if (ids.empty())
      return InvalidArgument("the chat template makes no tokens of the conversation");
    return ids;
  }

  // How many of the tokens the cache holds already; at least the last one is run.
  ptrdiff_t Cached(const std::vector<int32_t>& ids) const {
    const auto held = ids_.begin() + session_.length();
    const auto last = ids.empty() ? ids.end() : ids.end() - 1;
    return std::mismatch(ids_.begin(), held, ids.begin(), last).first - ids_.begin();
  }

  // Only what cannot be helped by another line is an error of the program.
  Status TakeTurn(const std::string& line) {
    const Status valid = ValidateUtf8(line);
    const auto tokens = [&] { return template_ ? TemplateTokens(line) : PlainTokens(line); };
    const Result<std::vector<int32_t>> ids = valid.ok() ? tokens() : valid.error();
    if (!ids.ok()) {
      PrintError(Concat("this line was not taken: ", ids.message(), "\n"));
      return {};
    }
    const ptrdiff_t cached = Cached(*ids);
    GenerationRequest request;
    request.history.assign(ids->begin(), ids->begin() + cached);
    request.prompt.assign(ids->begin() + cached, ids->end());
    if (request.prompt.empty()) return {};
    const ptrdiff_t room = session_.context() - cached;
    if (std::ssize(request.prompt) > room) {
      PrintError(Concat("this line was not taken: its ", request.prompt.size(),
                        " tokens do not fit, the context of ", session_.context(), " has room for ",
                        room, "; /reset begins anew\n"));
      return {};
    }
    session_.Truncate(static_cast<int32_t>(cached));
    MLA_ASSIGN_OR_RETURN(const Generation generation,
                         RunGeneration(*loaded_.tokenizer, session_, request, options_));
    ids_ = *ids;
    ids_.insert(ids_.end(), generation.ids.begin(), generation.ids.end());
    messages_.push_back({{"role", "user"}, {"content", line}});
    messages_.push_back({{"role", "assistant"}, {"content", generation.text}});
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

  std::string system_;
  const ChatTemplate* template_;
  const LoadedModel& loaded_;
  ChatEncoder encoder_;
  Session& session_;
  GenerateOptions options_;
  std::vector<int32_t> ids_;  // the conversation; the session holds a prefix of it
  std::vector<nlohmann::ordered_json>
      messages_;  // the same, for the template; without the system's
};

// Null: plain text.
Result<std::unique_ptr<ChatTemplate>> LoadTemplate(const ChatFlags& flags) {
  const std::string& model = flags.session.model;
  if (flags.no_template) return std::unique_ptr<ChatTemplate>();
  if (!flags.template_file.empty()) {
    MLA_ASSIGN_OR_RETURN(const std::string text, ReadText(flags.template_file));
    MLA_ASSIGN_OR_RETURN(ChatVariables variables, ChatTemplate::LoadVariables(model));
    Result<std::unique_ptr<ChatTemplate>> loaded =
        ChatTemplate::FromText(text, std::move(variables));
    if (loaded.ok()) return loaded;
    return Error{loaded.error().code, Concat(flags.template_file, ": ", loaded.message())};
  }
  Result<std::unique_ptr<ChatTemplate>> loaded = ChatTemplate::Load(model);
  if (loaded.ok()) return loaded;
  if (loaded.error().code == ErrorCode::kNotFound) return std::unique_ptr<ChatTemplate>();
  return Error{loaded.error().code, Concat(loaded.message(), " (--no-template chats without it)")};
}

// Where the tokenizer alone names the end of a turn.
void AddStops(const Tokenizer& tokenizer, std::vector<int32_t>* stops) {
  for (const int32_t id : tokenizer.eos_ids()) {
    if (std::count(stops->begin(), stops->end(), id) == 0) stops->push_back(id);
  }
}

Status Chat(const ChatFlags& flags) {
  if (const Status valid = ValidateUtf8(flags.system); !valid.ok()) {
    return InvalidArgument("--system: ", valid.message());
  }
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<ChatTemplate> chat_template, LoadTemplate(flags));
  MLA_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModelAndTokenizer(flags.session));
  MLA_ASSIGN_OR_RETURN(GenerateOptions options,
                       flags.sampling.Resolve(flags.session.model, loaded.model->spec()));
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                       Session::Create(*loaded.model, flags.session.ToOptions()));
  if (chat_template != nullptr && !flags.sampling.ignore_eos) {
    AddStops(*loaded.tokenizer, &options.stop_ids);
  }
  return Conversation(flags.system, chat_template.get(), loaded, *session, std::move(options))
      .Run();
}

}  // namespace

int ChatCommand(int argc, char** argv) {
  ChatFlags flags;
  Command command("chat", kDescription, kExamples);
  flags.session.AddModel(command.app());
  command.app()
      .add_option("--system", flags.system, "A text that stands before the first turn")
      ->type_name("TEXT");
  auto* file = command.app()
                   .add_option("--template", flags.template_file,
                               "A chat template (Jinja) to use instead of the model's own")
                   ->type_name("FILE");
  command.app()
      .add_flag("--no-template", flags.no_template, "Join turns as plain text")
      ->excludes(file);
  flags.sampling.Add(command.app());
  flags.session.AddSession(command.app());
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  return command.Finish(Chat(flags));
}

}  // namespace mla
