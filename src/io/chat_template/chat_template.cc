#include "io/chat_template/chat_template.h"

#include <filesystem>
#include <optional>

#include "io/chat_template/ast.h"
#include "io/chat_template/evaluator.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/read_file.h"
#include "io/tokenizer/gguf_tokenizer.h"
#include "io/tokenizer/tokenizer_config.h"

namespace mla {
namespace {

using jinja::Value;

constexpr size_t kMaxConfigBytes = size_t{256} << 20;
constexpr std::string_view kConfigName = "tokenizer_config.json";
constexpr const char* kTokenNames[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                       "sep_token", "cls_token", "mask_token"};

Error Named(std::string_view where, const Error& error) {
  return Error{error.code, Concat(where, ": ", error.message)};
}

// A token is a string or an object with its content; empty if there is none.
Result<std::string> TokenText(const nlohmann::json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return std::string();
  const nlohmann::json* text = &*found;
  if (found->is_object() && found->contains("content")) text = &found->at("content");
  if (text->is_string()) return text->get<std::string>();
  return CorruptFile(kConfigName, ": ", key, " is ", DescribeJson(*found),
                     ", want a string or an object with its content");
}

Result<nlohmann::json> ParseConfig(std::string_view text) {
  MLA_ASSIGN_OR_RETURN(nlohmann::json config, ParseJson(text, kConfigName));
  if (config.is_object()) return config;
  return CorruptFile(kConfigName, " is ", DescribeJson(config), ", want an object");
}

Result<ChatVariables> VariablesOf(const nlohmann::json& config) {
  ChatVariables variables;
  for (const char* name : kTokenNames) {
    MLA_ASSIGN_OR_RETURN(std::string token, TokenText(config, name));
    if (token.empty()) continue;
    if (name == std::string_view("bos_token")) {
      variables.bos_token = std::move(token);
    } else if (name == std::string_view("eos_token")) {
      variables.eos_token = std::move(token);
    } else {
      variables.special_tokens.emplace_back(name, std::move(token));
    }
  }
  return variables;
}

bool IsFile(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

// The pieces of the ids that the metadata names.
Result<ChatVariables> VariablesOf(const GgufFile& file) {
  ChatVariables variables;
  constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
  if (file.Find(kTokens) == nullptr) return variables;
  MLA_ASSIGN_OR_RETURN(const std::vector<std::string_view> tokens, file.GetStrings(kTokens));
  const std::pair<const char*, std::string*> wanted[] = {
      {"tokenizer.ggml.bos_token_id", &variables.bos_token},
      {"tokenizer.ggml.eos_token_id", &variables.eos_token}};
  for (const auto& [key, token] : wanted) {
    MLA_ASSIGN_OR_RETURN(const int64_t id, file.GetIntOr(key, -1, -1, std::ssize(tokens) - 1));
    if (id >= 0) *token = tokens[static_cast<size_t>(id)];
  }
  return variables;
}

Result<std::vector<NamedChatTemplate>> TemplatesOf(const nlohmann::json& config) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) {
    return NotFound(kConfigName, " has no chat_template");
  }
  if (found->is_string())
    return std::vector<NamedChatTemplate>{{"default", found->get<std::string>(), {}}};
  if (!found->is_array() || found->empty()) {
    return CorruptFile(kConfigName, ": chat_template is ", DescribeJson(*found),
                       ", want a string or a list of named ones");
  }
  std::vector<NamedChatTemplate> templates;
  for (const nlohmann::json& entry : *found) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() ||
        !entry.contains("template") || !entry["template"].is_string()) {
      return CorruptFile(kConfigName, ": chat_template holds ", DescribeJson(entry),
                         ", want objects with a name and a template");
    }
    templates.push_back({entry["name"], entry["template"], {}});
  }
  return templates;
}

}  // namespace

ChatTemplate::ChatTemplate(ChatVariables variables, const ChatTemplateLimits& limits)
    : variables_(std::move(variables)), limits_(limits) {}

ChatTemplate::~ChatTemplate() = default;

Status ChatTemplate::Add(std::string name, std::string_view text) {
  if (text.size() > limits_.max_template_bytes) {
    return CorruptFile("chat template: ", text.size(), " bytes, the limit is ",
                       limits_.max_template_bytes);
  }
  Result<std::unique_ptr<jinja::Program>> program = jinja::Program::Parse(text);
  if (!program.ok()) {
    const bool unsupported = program.error().code == ErrorCode::kUnsupported;
    return Error{unsupported ? ErrorCode::kUnsupported : ErrorCode::kCorruptFile,
                 Concat("chat template: ", program.error().message)};
  }
  if (names_.empty() || name == "default") text_ = text;
  names_.push_back(std::move(name));
  programs_.push_back(*std::move(program));
  return {};
}

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::FromText(std::string_view text,
                                                             ChatVariables variables,
                                                             const ChatTemplateLimits& limits) {
  auto chat = std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(variables), limits));
  MLA_RETURN_IF_ERROR(chat->Add("default", text));
  return chat;
}

Result<ChatVariables> ChatTemplate::VariablesFromConfig(std::string_view config_json) {
  MLA_ASSIGN_OR_RETURN(const nlohmann::json config, ParseConfig(config_json));
  return VariablesOf(config);
}

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::FromConfig(std::string_view config_json) {
  MLA_ASSIGN_OR_RETURN(const nlohmann::json config, ParseConfig(config_json));
  MLA_ASSIGN_OR_RETURN(const std::vector<NamedChatTemplate> templates, TemplatesOf(config));
  MLA_ASSIGN_OR_RETURN(ChatVariables variables, VariablesOf(config));
  auto chat = std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(variables), {}));
  for (const NamedChatTemplate& entry : templates) {
    MLA_RETURN_IF_ERROR(chat->Add(entry.name, entry.text));
  }
  return chat;
}

Result<ChatVariables> ChatTemplate::LoadVariables(const std::string& model) {
  if (IsFile(model)) {
    MLA_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(model));
    return VariablesOf(file);
  }
  MLA_ASSIGN_OR_RETURN(const std::string config, ReadTokenizerConfig(model));
  if (config.empty()) return ChatVariables{};
  Result<ChatVariables> variables = VariablesFromConfig(config);
  if (!variables.ok()) return Named(model, variables.error());
  return variables;
}

Result<std::vector<NamedChatTemplate>> ReadChatTemplates(const std::string& model) {
  if (IsFile(model)) {
    MLA_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(model));
    MLA_ASSIGN_OR_RETURN(std::optional<std::string> text, ReadGgufChatTemplate(file));
    if (!text) return NotFound(model, ": no chat template: no tokenizer.chat_template");
    return std::vector<NamedChatTemplate>{{"default", *std::move(text), model}};
  }
  const std::string config_path = JoinPath(model, std::string(kConfigName));
  const std::string jinja_path = JoinPath(model, "chat_template.jinja");
  const Result<std::string> config = ReadFile(config_path, kMaxConfigBytes);
  if (!config.ok() && config.error().code != ErrorCode::kNotFound) return config.error();
  Result<std::string> text = ReadFile(jinja_path, ChatTemplateLimits().max_template_bytes);
  if (text.ok()) return std::vector<NamedChatTemplate>{{"default", *std::move(text), jinja_path}};
  if (text.error().code != ErrorCode::kNotFound) return text.error();
  if (!config.ok()) {
    return NotFound(model, ": no chat template: neither chat_template.jinja nor ", kConfigName,
                    " is there");
  }
  const Result<nlohmann::json> parsed = ParseConfig(*config);
  if (!parsed.ok()) return Named(model, parsed.error());
  Result<std::vector<NamedChatTemplate>> templates = TemplatesOf(*parsed);
  if (!templates.ok()) return Named(model, templates.error());
  for (NamedChatTemplate& entry : *templates) entry.where = model;
  return templates;
}

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& model) {
  MLA_ASSIGN_OR_RETURN(const std::vector<NamedChatTemplate> templates, ReadChatTemplates(model));
  MLA_ASSIGN_OR_RETURN(ChatVariables variables, LoadVariables(model));
  auto chat = std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(variables), {}));
  for (const NamedChatTemplate& entry : templates) {
    const Status added = chat->Add(entry.name, entry.text);
    if (!added.ok()) return Named(entry.where, added.error());
  }
  return chat;
}

Result<RenderedChat> ChatTemplate::Render(const ChatInput& input) const {
  size_t chosen = 0;
  const bool has_tools = !input.tools.is_null();
  for (size_t i = 0; i < names_.size(); ++i) {
    if (names_[i] == "default") chosen = i;
  }
  for (size_t i = 0; i < names_.size(); ++i) {
    if (has_tools && names_[i] == "tool_use") chosen = i;
  }
  std::vector<std::pair<std::string_view, Value>> variables;
  const auto add_json = [&](std::string_view name, const nlohmann::ordered_json& json) -> Status {
    Result<Value> value = jinja::FromJson(json);
    if (!value.ok()) return Named(name, value.error());
    variables.emplace_back(name, *std::move(value));
    return {};
  };
  // Later names stand before earlier ones of the same name.
  if (input.extra.is_object()) {
    for (const auto& [name, value] : input.extra.items()) {
      MLA_RETURN_IF_ERROR(add_json(name, value));
    }
  } else if (!input.extra.is_null()) {
    return InvalidArgument("the variables of a chat template are no JSON object");
  }
  MLA_RETURN_IF_ERROR(add_json("messages", input.messages));
  MLA_RETURN_IF_ERROR(add_json("tools", input.tools));
  variables.emplace_back("documents", Value(jinja::None{}));
  variables.emplace_back("add_generation_prompt", Value(input.add_generation_prompt));
  const auto add_token = [&](std::string_view name, const std::string& token) -> Status {
    if (token.empty()) return {};
    if (const Status valid = ValidateUtf8(token); !valid.ok()) return Named(name, valid.error());
    variables.emplace_back(name, Value::String(token));
    return {};
  };
  MLA_RETURN_IF_ERROR(add_token("bos_token", variables_.bos_token));
  MLA_RETURN_IF_ERROR(add_token("eos_token", variables_.eos_token));
  for (const auto& [name, token] : variables_.special_tokens) {
    MLA_RETURN_IF_ERROR(add_token(name, token));
  }
  jinja::Budget budget(limits_.max_steps, limits_.max_value_bytes);
  const jinja::Environment environment{&budget, input.now};
  jinja::Evaluator evaluator(environment, limits_.max_output_bytes);
  Result<jinja::Text> text = evaluator.Run(*programs_[chosen], std::move(variables));
  if (!text.ok()) return Named("chat template", text.error());
  return RenderedChat{text->bytes(), text->origins()};
}

}  // namespace mla
