// mla tokenize: text to ids and pieces, and back.
#include <nlohmann/json.hpp>
#include <string>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/output.h"
#include "io/tokenizer/tokenizer.h"

namespace mla {
namespace {

constexpr const char* kDescription = R"(Prints the tokens of a text, one per line: id and piece.

The text is TEXT, or standard input if that is - or left out. Special tokens written out in it are
text unless --special is given. With --decode the text is a list of ids, and is turned back into
text. Only MODEL's tokenizer is read, not its weights.)";

constexpr const char* kExamples = R"(  mla tokenize models/stories-mla-9m "Once upon a time"
  mla tokenize MODEL --bos --ids "Once upon a time"
  mla tokenize MODEL --decode "0,393,394,261,363"
  mla tokenize MODEL --json - < story.txt)";

struct TokenizeFlags {
  std::string model;
  std::string text = "-";
  bool bos = false;
  bool special = false;
  bool decode = false;
  bool ids_only = false;
  bool json = false;
};

Status Decode(const TokenizeFlags& flags, const Tokenizer& tokenizer, const std::string& text) {
  MLA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                       ParseIntList(text, "ids", 0, tokenizer.vocab_size() - 1));
  MLA_ASSIGN_OR_RETURN(const std::string decoded, tokenizer.Decode(ids, !flags.special));
  if (!flags.json) return Print(decoded + "\n");
  return PrintJson({{"ids", ids}, {"text", decoded}});
}

Status Encode(const TokenizeFlags& flags, const Tokenizer& tokenizer, const std::string& text) {
  MLA_ASSIGN_OR_RETURN(
      const std::vector<int32_t> ids,
      tokenizer.Encode(text, {.add_special_tokens = flags.bos, .parse_special = flags.special}));
  std::vector<std::string> pieces;
  for (const int32_t id : ids) {
    MLA_ASSIGN_OR_RETURN(std::string piece, tokenizer.IdToPiece(id));
    pieces.push_back(std::move(piece));
  }
  if (flags.json) return PrintJson({{"text", text}, {"ids", ids}, {"pieces", pieces}});
  std::string output;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (flags.ids_only) {
      output += Concat(i == 0 ? "" : ",", ids[i]);
    } else {
      const std::string id = std::to_string(ids[i]);
      output += std::string(id.size() < 7 ? 7 - id.size() : 0, ' ') + id;
      output += "  " + OneLine(pieces[i]) + "\n";
    }
  }
  return Print(flags.ids_only ? output + "\n" : output);
}

Status Tokenize(const TokenizeFlags& flags) {
  std::string text = flags.text;
  if (text == "-") {
    MLA_ASSIGN_OR_RETURN(text, ReadText("-"));
  } else if (const Status valid = ValidateUtf8(text); !valid.ok()) {
    return InvalidArgument("TEXT: ", valid.message());
  }
  MLA_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(flags.model));
  return flags.decode ? Decode(flags, *tokenizer, text) : Encode(flags, *tokenizer, text);
}

}  // namespace

int TokenizeCommand(int argc, char** argv) {
  TokenizeFlags flags;
  Command command("tokenize", kDescription, kExamples);
  CLI::App& app = command.app();
  app.add_option("MODEL", flags.model, "Hugging Face directory with a tokenizer, or GGUF file")
      ->required()
      ->check(NotEmpty())
      ->type_name("");
  app.add_option("TEXT", flags.text, "The text; - for standard input (the default)")->type_name("");
  app.add_flag("--bos", flags.bos, "Add what the tokenizer puts around a text, BOS above all");
  app.add_flag("--special", flags.special, "Special tokens in the text count (and are decoded)");
  auto* decode = app.add_flag("--decode", flags.decode, "TEXT is ids; print their text");
  app.add_flag("--ids", flags.ids_only, "Print the ids alone, in one line")->excludes(decode);
  app.add_flag("--json", flags.json, "Print one JSON object");
  if (const auto exit = command.Parse(argc, argv)) return *exit;
  return command.Finish(Tokenize(flags));
}

}  // namespace mla
