// What a model has for text: its tokenizer, special tokens and chat templates.
#ifndef MLA_APPS_INSPECT_TEXT_H_
#define MLA_APPS_INSPECT_TEXT_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "io/chat_template/chat_template.h"
#include "io/gguf.h"

namespace mla {

struct TextReport {
  std::string tokenizer;  // "tokenizer.json", "GGUF, gpt2, cut as qwen2"; or why there is none
  bool has_tokenizer = false;
  int32_t tokens = 0;
  std::vector<std::pair<std::string, int32_t>> roles;     // "bos", "eos", "pad", ... -> id
  std::vector<std::pair<int32_t, std::string>> specials;  // every special token
  std::vector<NamedChatTemplate> templates;               // empty: none
  std::string template_problem;                           // why `mla chat` cannot use them
};

// Of the model at `path`, which is `gguf` if it is a GGUF file. bos_id (-1: none) and stop_ids are
// what the model's configs name. Never fails: what cannot be read is said in the report.
TextReport ReadTextReport(const std::string& path, const GgufFile* gguf, int32_t bos_id,
                          const std::vector<int32_t>& stop_ids);

std::string TextReportText(const TextReport& report);
void AddTextReport(const TextReport& report, nlohmann::ordered_json& json);

}  // namespace mla

#endif  // MLA_APPS_INSPECT_TEXT_H_
