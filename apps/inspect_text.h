// What a model has for text: its tokenizer, special tokens and chat templates.
#ifndef MLA_APPS_INSPECT_TEXT_H_
#define MLA_APPS_INSPECT_TEXT_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "io/chat_template/chat_template.h"
#include "model/model.h"

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

// Never fails: what cannot be read is said in the report.
TextReport ReadTextReport(const Model& model, const std::string& path,
                          const std::vector<int32_t>& stop_ids);

std::string TextReportText(const TextReport& report);
void AddTextReport(const TextReport& report, nlohmann::ordered_json& json);

}  // namespace mla

#endif  // MLA_APPS_INSPECT_TEXT_H_
