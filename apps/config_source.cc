#include "apps/config_source.h"

#include <sys/stat.h>

#include "io/config.h"
#include "io/json.h"
#include "io/read_file.h"
#include "model/known_models.h"

namespace mla {

Result<ConfigSource> ReadConfigSource(const std::string& name) {
  struct stat info;
  if (::stat(name.c_str(), &info) == 0) {
    ConfigSource source{{}, name};
    if (S_ISDIR(info.st_mode)) {
      MLA_ASSIGN_OR_RETURN(source.config, ReadConfigFile(name));
    } else {
      MLA_ASSIGN_OR_RETURN(const std::string text, ReadFileOrPipe(name, JsonLimits().max_bytes));
      MLA_ASSIGN_OR_RETURN(source.config, ParseJson(text, name));
    }
    return source;
  }
  // What has a slash or ends in .json was meant as a path.
  if (name.find('/') != std::string::npos || name.ends_with(".json")) {
    return NotFound(name, ": no such file or directory");
  }
  MLA_ASSIGN_OR_RETURN(const KnownModel* const known, FindKnownModel(name));
  ConfigSource source{{}, std::string(known->source)};
  MLA_ASSIGN_OR_RETURN(source.config, ParseJson(known->config, known->name));
  return source;
}

}  // namespace mla
