#include "apps/inspect_text.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/output.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/tokenizer/tokenizer.h"

namespace mla {
namespace {

std::string DescribeTokenizer(const std::string& path, const GgufFile* gguf) {
  if (gguf != nullptr) {
    const auto kind = gguf->GetStringOr("tokenizer.ggml.model", "none");
    const auto pre = gguf->GetStringOr("tokenizer.ggml.pre", "");
    std::string text = "GGUF";
    if (kind.ok()) text += Concat(", ", *kind);
    if (pre.ok() && !pre->empty()) text += Concat(", words cut as ", *pre);
    return text;
  }
  std::error_code ignored;
  for (const char* name : {"tokenizer.json", "tiktoken.model"}) {
    if (std::filesystem::exists(path + "/" + name, ignored)) return name;
  }
  return "tokenizer.model";
}

// The ids that files name for a purpose, by their text.
void AddRoles(const Tokenizer& tokenizer, const std::string& path, const GgufFile* gguf,
              int32_t bos_id, const std::vector<int32_t>& stop_ids, TextReport& report) {
  const auto add = [&](const std::string& role, int32_t id) {
    const std::pair<std::string, int32_t> entry(role, id);
    const bool known =
        std::find(report.roles.begin(), report.roles.end(), entry) != report.roles.end();
    if (id >= 0 && tokenizer.HasId(id) && !known) report.roles.push_back(entry);
  };
  add("bos", tokenizer.bos_id() >= 0 ? tokenizer.bos_id() : bos_id);
  for (const int32_t id : tokenizer.eos_ids()) add("eos", id);
  for (const int32_t id : stop_ids) add("eos", id);
  if (gguf != nullptr) {
    for (const auto& [role, name] : {std::pair("unk", "unknown"), std::pair("pad", "padding")}) {
      const auto id = gguf->GetIntOr(Concat("tokenizer.ggml.", name, "_token_id"), -1, -1,
                                     tokenizer.vocab_size());
      if (id.ok()) add(role, static_cast<int32_t>(*id));
    }
    return;
  }
  const Result<ChatVariables> variables = ChatTemplate::LoadVariables(path);
  if (!variables.ok()) return;
  for (const auto& [name, piece] : variables->special_tokens) {
    const std::string role = name.substr(0, name.find('_'));  // "pad_token"
    add(role, tokenizer.PieceToId(piece).value_or(-1));
  }
}

// At most `lines` lines of it, none of them long.
std::string Beginning(std::string_view text, int lines) {
  constexpr size_t kWidth = 96;
  std::string shown;
  for (int i = 0; i < lines && !text.empty(); ++i) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string line = OneLine(text.substr(0, end));
    if (line.size() > kWidth) {
      size_t cut = kWidth;
      while (cut > 0 && (static_cast<unsigned char>(line[cut]) & 0xC0) == 0x80) --cut;
      line.resize(cut);
      line += " ...";
    }
    shown += "  " + line + "\n";
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (!text.empty()) shown += "  ...\n";
  return shown;
}

}  // namespace

TextReport ReadTextReport(const std::string& path, const GgufFile* gguf, int32_t bos_id,
                          const std::vector<int32_t>& stop_ids) {
  TextReport report;
  const Result<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(path);
  report.has_tokenizer = tokenizer.ok();
  report.tokenizer =
      tokenizer.ok() ? DescribeTokenizer(path, gguf) : std::string(tokenizer.message());
  if (tokenizer.ok()) {
    report.tokens = (*tokenizer)->vocab_size();
    AddRoles(**tokenizer, path, gguf, bos_id, stop_ids, report);
    for (int32_t id = 0; id < report.tokens; ++id) {
      if (!(*tokenizer)->HasId(id) || !(*tokenizer)->IsSpecial(id)) continue;
      report.specials.emplace_back(id, *(*tokenizer)->IdToPiece(id));
    }
  }
  Result<std::vector<NamedChatTemplate>> templates = ReadChatTemplates(path);
  if (templates.ok()) {
    report.templates = *std::move(templates);
    const auto usable = ChatTemplate::Load(path);
    if (!usable.ok()) report.template_problem = usable.message();
  } else if (templates.error().code != ErrorCode::kNotFound) {
    report.template_problem = templates.message();
  }
  return report;
}

std::string TextReportText(const TextReport& report) {
  if (!report.has_tokenizer) return Concat("tokenizer: ", OneLine(report.tokenizer), "\n");
  std::string text =
      Concat("tokenizer: ", OneLine(report.tokenizer), ", ", WithCommas(report.tokens), " tokens, ",
             report.specials.size(), " special\n");
  std::map<int32_t, std::string> pieces(report.specials.begin(), report.specials.end());
  for (const auto& [role, id] : report.roles) {
    text += Concat("  ", role, " ", id);
    if (pieces.count(id) > 0) text += " " + OneLine(pieces[id]);
    text += "\n";
  }
  for (const auto& [role, id] : report.roles) pieces.erase(id);
  constexpr size_t kListed = 8;
  size_t listed = 0;
  for (const auto& [id, piece] : pieces) {
    if (++listed > kListed) break;
    text += Concat(listed == 1 ? "  others: " : ", ", id, " ", OneLine(piece));
  }
  if (listed > 0) text += listed > kListed ? ", ...\n" : "\n";

  if (report.templates.empty() && report.template_problem.empty()) {
    text += "chat template: none\n";
  }
  for (const NamedChatTemplate& entry : report.templates) {
    const auto lines = std::count(entry.text.begin(), entry.text.end(), '\n') + 1;
    text += Concat("chat template ", Quote(entry.name), ": ", lines,
                   lines == 1 ? " line, " : " lines, ", WithCommas(std::ssize(entry.text)),
                   " bytes (--template prints it)\n", Beginning(entry.text, 3));
  }
  if (!report.template_problem.empty()) {
    text += Concat("chat template not usable: ", OneLine(report.template_problem), "\n");
  }
  return text;
}

void AddTextReport(const TextReport& report, nlohmann::ordered_json& json) {
  using Json = nlohmann::ordered_json;
  Json& tokenizer = json["tokenizer"];
  if (!report.has_tokenizer) {
    tokenizer = {{"problem", report.tokenizer}};
  } else {
    tokenizer = {{"kind", report.tokenizer}, {"tokens", report.tokens}};
    tokenizer["roles"] = Json::array();
    for (const auto& [role, id] : report.roles) {
      tokenizer["roles"].push_back({{"role", role}, {"id", id}});
    }
    tokenizer["special"] = Json::array();
    for (const auto& [id, piece] : report.specials) {
      tokenizer["special"].push_back({{"id", id}, {"text", piece}});
    }
  }
  json["chat_templates"] = Json::array();
  for (const NamedChatTemplate& entry : report.templates) {
    json["chat_templates"].push_back({{"name", entry.name}, {"text", entry.text}});
  }
  if (!report.template_problem.empty()) json["chat_template_problem"] = report.template_problem;
}

}  // namespace mla
