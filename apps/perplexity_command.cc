// mla perplexity: how well a model predicts a text.
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "apps/session_flags.h"
#include "apps/text_pieces.h"
#include "engine/perplexity.h"

namespace mla {
namespace {

constexpr const char* kDescription =
    R"(Scores a text: predicted tokens, nll per token (natural log) and perplexity.

With --separator the text is cut at each occurrence of it, each piece is stripped of white space,
and what is left is scored on its own: BOS, its tokens, EOS too with --eos, cut at the context
length. Without, the text is scored in consecutive windows of the context length, each beginning
with BOS, so that every token is predicted once.)";

constexpr const char* kExamples =
    R"(  mla perplexity models/stories-mla-9m --file tests/data/stories-mla-9m.validation.txt \
      --separator '<|endoftext|>' --eos --compute f32
  mla perplexity MODEL --file book.txt --context 2048 --json)";

struct PerplexityFlags {
  SessionFlags session;
  std::string file;
  std::string separator;
  bool eos = false;
  bool json = false;
};

using Sequences = std::vector<std::vector<int32_t>>;

Result<Sequences> PieceSequences(const LoadedModel& loaded, std::string_view text,
                                 const PerplexityFlags& flags, int32_t context) {
  Sequences sequences;
  for (const std::string_view piece : SplitPieces(text, flags.separator)) {
    MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens,
                         loaded.tokenizer->Encode(piece, {.add_special_tokens = false}));
    std::vector<int32_t> ids;
    if (BosId(loaded) >= 0) ids.push_back(BosId(loaded));
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    if (flags.eos) ids.push_back(EosId(loaded));
    ids.resize(std::min(ids.size(), static_cast<size_t>(context)));
    sequences.push_back(std::move(ids));
  }
  return sequences;
}

Result<Sequences> WindowSequences(const LoadedModel& loaded, std::string_view text,
                                  const PerplexityFlags& flags, int32_t context) {
  MLA_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                       loaded.tokenizer->Encode(text, {.add_special_tokens = false}));
  if (flags.eos) tokens.push_back(EosId(loaded));
  return WindowsOf(tokens, BosId(loaded), context);
}

Status PrintResult(const PerplexityFlags& flags, const NllSum& sum, size_t sequences,
                   const Session& session) {
  if (flags.json) {
    nlohmann::ordered_json json;
    json["model"] = flags.session.model;
    json["file"] = flags.file;
    json[flags.separator.empty() ? "windows" : "pieces"] = sequences;
    json["predicted_tokens"] = sum.tokens;
    json["nll_per_token"] = sum.per_token();
    json["perplexity"] = sum.perplexity();
    json.update(SessionJson(session));
    return PrintJson(json);
  }
  MLA_RETURN_IF_ERROR(
      Print(Concat(flags.separator.empty() ? "windows           " : "pieces            ",
                   WithCommas(static_cast<int64_t>(sequences)), "\npredicted tokens  ",
                   WithCommas(sum.tokens), "\nnll per token     ", Fixed(sum.per_token(), 5),
                   "\nperplexity        ", Fixed(sum.perplexity(), 4), "\n")));
  PrintError(DescribeSession(session) + "\n");
  return {};
}

Status Perplexity(const PerplexityFlags& flags) {
  MLA_ASSIGN_OR_RETURN(const std::string text, ReadText(flags.file));
  MLA_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModelAndTokenizer(flags.session));
  if (flags.eos && EosId(loaded) < 0) return InvalidArgument("--eos: the model names no EOS token");
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session,
                       Session::Create(*loaded.model, flags.session.ToOptions()));
  if (session->context() < 2) {
    return InvalidArgument("context is ", session->context(), ", want at least 2 to predict");
  }
  const int32_t context = session->context();
  MLA_ASSIGN_OR_RETURN(const Sequences sequences,
                       flags.separator.empty() ? WindowSequences(loaded, text, flags, context)
                                               : PieceSequences(loaded, text, flags, context));
  int64_t total = 0;
  for (const auto& ids : sequences) total += std::ssize(ids) - 1;
  if (total < 1) return InvalidArgument(flags.file, " holds no token to predict");

  NllSum sum;
  {
    ProgressBar bar("scoring", total);
    for (const auto& ids : sequences) {
      MLA_RETURN_IF_ERROR(AddNll(*session, ids, sum));
      bar.Update(sum.tokens);
    }
  }
  return PrintResult(flags, sum, sequences.size(), *session);
}

}  // namespace

int PerplexityCommand(int argc, char** argv) {
  PerplexityFlags flags;
  Command command("perplexity", kDescription, kExamples);
  flags.session.AddModel(command.app());
  command.app()
      .add_option("--file", flags.file, "The text, UTF-8; - for standard input")
      ->required()
      ->type_name("FILE");
  command.app()
      .add_option("--separator", flags.separator, "Score the pieces between S (literal) apart")
      ->type_name("S");
  command.app().add_flag("--eos", flags.eos, "Let EOS end each piece (or the text), and score it");
  flags.session.AddSession(command.app());
  command.app().add_flag("--json", flags.json, "Print one JSON object");
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  return command.Finish(Perplexity(flags));
}

}  // namespace mla
