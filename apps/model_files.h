// The files of a model, so that no output takes their place.
#ifndef MLA_APPS_MODEL_FILES_H_
#define MLA_APPS_MODEL_FILES_H_

#include <string>

#include "mla/result.h"

namespace mla {

// kInvalidArgument if `output` is one of the files that `model` is read from, under whatever name:
// a GGUF file or a config.json itself, or a directory's weights, config, tokenizer and chat
// template. `flag` names the output in the error: "--output". A model that is not there has no
// files.
Status RefuseModelFile(const std::string& flag, const std::string& output,
                       const std::string& model);

}  // namespace mla

#endif  // MLA_APPS_MODEL_FILES_H_
