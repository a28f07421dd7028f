#include "apps/model_files.h"

#include <sys/stat.h>

#include <vector>

#include "io/checkpoint.h"
#include "io/read_file.h"

namespace mla {
namespace {

constexpr const char* kTextFiles[] = {
    "config.json",           "generation_config.json",  "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model",       "tiktoken.model",          "chat_template.jinja"};

}  // namespace

Status RefuseModelFile(const std::string& flag, const std::string& output,
                       const std::string& model) {
  struct stat to {
  }, from{};
  if (::stat(output.c_str(), &to) != 0 || ::stat(model.c_str(), &from) != 0) return {};
  std::vector<std::string> files = CheckpointFiles(model);
  if (S_ISDIR(from.st_mode)) {
    for (const char* name : kTextFiles) files.push_back(JoinPath(model, name));
  }
  for (const std::string& file : files) {
    if (::stat(file.c_str(), &from) != 0) continue;
    if (from.st_dev != to.st_dev || from.st_ino != to.st_ino) continue;
    return InvalidArgument(flag, " is ", output, ", ",
                           file == model ? "the model itself" : "a file of the model",
                           ", want another file");
  }
  return {};
}

}  // namespace mla
