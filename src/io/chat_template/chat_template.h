// A model's chat template: the Jinja text that turns a conversation into the prompt the model was
// trained on, with the results of Hugging Face's apply_chat_template.
//
// The engine is bounded: no I/O, no access beyond the values given, limits on size, nesting, steps,
// memory and output. What it does not implement is refused by name.
#ifndef MLA_IO_CHAT_TEMPLATE_CHAT_TEMPLATE_H_
#define MLA_IO_CHAT_TEMPLATE_CHAT_TEMPLATE_H_

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/tokenizer/tokenizer.h"
#include "mla/result.h"

namespace mla {

namespace jinja {
class Program;
}

struct ChatTemplateLimits {
  size_t max_template_bytes = size_t{1} << 20;
  int64_t max_steps = 20'000'000;                // operations, about
  int64_t max_value_bytes = int64_t{256} << 20;  // of all values made while rendering
  size_t max_output_bytes = size_t{32} << 20;
};

// What a template may refer to by name beside the conversation.
struct ChatVariables {
  std::string bos_token, eos_token;  // empty: undefined in the template
  // Further names: "unk_token", "pad_token"...
  std::vector<std::pair<std::string, std::string>> special_tokens;
};

struct ChatInput {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  nlohmann::ordered_json tools;  // null: none
  bool add_generation_prompt = false;
  std::tm now{};                 // the local time that strftime_now formats
  nlohmann::ordered_json extra;  // further variables ("enable_thinking"); null or an object
};

// The prompt, and for each byte whether it came from the conversation (1) or the template (0):
// special tokens are what the template wrote, never what a user typed.
struct RenderedChat {
  std::string text;
  std::string from_input;  // as long as text, of '\0' and '\1'
};

struct NamedChatTemplate {
  std::string name;  // "default", "tool_use"
  std::string text;
  std::string where;  // what errors about it begin with
};

// The templates of a model directory or GGUF file, as they are written, whether or not this engine
// implements them. kNotFound if there are none.
Result<std::vector<NamedChatTemplate>> ReadChatTemplates(const std::string& model);

// Immutable after loading; const methods are thread-safe.
class ChatTemplate {
 public:
  // chat_template.jinja of a model directory, else chat_template of tokenizer_config.json: a text,
  // or a list of named ones, of which "default" is used, and "tool_use" where tools are given.
  // Special tokens are those of tokenizer_config.json. Of a GGUF file its own template and tokens.
  // kNotFound if there is no template.
  static Result<std::unique_ptr<ChatTemplate>> Load(const std::string& model);

  // kCorruptFile with the line for a syntax error or a passed limit; kUnsupported, naming it, for a
  // construct that is not implemented.
  static Result<std::unique_ptr<ChatTemplate>> FromText(std::string_view text,
                                                        ChatVariables variables,
                                                        const ChatTemplateLimits& limits = {});

  // The same for the contents of tokenizer_config.json. kNotFound if it has no template.
  static Result<std::unique_ptr<ChatTemplate>> FromConfig(std::string_view config_json);
  // Its special tokens alone, and those of a model directory or GGUF file; none if nothing says.
  static Result<ChatVariables> VariablesFromConfig(std::string_view config_json);
  static Result<ChatVariables> LoadVariables(const std::string& model);

  ~ChatTemplate();

  // kInvalidArgument where the template raises an error, applies an operation to a value of the
  // wrong kind, or passes a limit; kUnsupported as above, both with the template's line.
  Result<RenderedChat> Render(const ChatInput& input) const;

  const std::string& text() const { return text_; }
  const std::vector<std::string>& names() const { return names_; }  // "default", "tool_use"

 private:
  ChatTemplate(ChatVariables variables, const ChatTemplateLimits& limits);
  Status Add(std::string name, std::string_view text);

  ChatVariables variables_;
  ChatTemplateLimits limits_;
  std::string text_;  // of the default template
  std::vector<std::string> names_;
  std::vector<std::unique_ptr<jinja::Program>> programs_;  // as names_
};

// Tokenises rendered chats. The tokenizer must outlive it. Thread-safe.
class ChatEncoder {
 public:
  explicit ChatEncoder(const Tokenizer& tokenizer);

  // The ids of the whole text as Hugging Face gives them, except that a special token spelled out
  // in the conversation, in whole or in part, stays text. Adds nothing around the text.
  Result<std::vector<int32_t>> Encode(const RenderedChat& chat) const;

 private:
  struct Match {
    size_t begin, end;
    bool from_input;  // any byte of it
  };
  std::vector<Match> FindSpecials(const RenderedChat& chat) const;

  const Tokenizer& tokenizer_;
  std::vector<std::vector<std::string>> specials_;  // by first byte
};

}  // namespace mla

#endif  // MLA_IO_CHAT_TEMPLATE_CHAT_TEMPLATE_H_
