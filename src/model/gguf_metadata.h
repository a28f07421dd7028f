// A ModelSpec as the metadata of a GGUF file.
#ifndef MLA_MODEL_GGUF_METADATA_H_
#define MLA_MODEL_GGUF_METADATA_H_

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf_writer.h"
#include "mla/result.h"
#include "model/spec.h"

namespace mla {

// The architecture that such layers are of: deepseek2, llama, qwen2, qwen3.
std::string_view GgufArchitecture(const ModelSpec& spec);

// Adds ARCHITECTURE.* for a model with this spec, read from this config.json (its rope settings are
// in the words of that). kUnsupported for what has no key at all.
Status AddGgufModel(const ModelSpec& spec, const nlohmann::json& config, GgufMetadata& metadata);

// What Llama 3's scaling divides each frequency by: the tensor rope_freqs.weight. Empty: none.
Result<std::vector<float>> GgufRopeFactors(const ModelSpec& spec, const nlohmann::json& config);

// The first thing in which a model with the spec `written`, read back from a GGUF file, would
// differ from `spec`: "rope_scaling.mscale ... is 1.1, a GGUF file can only say 1". Nothing if they
// agree.
std::optional<std::string> GgufDifference(const ModelSpec& spec, const ModelSpec& written);

}  // namespace mla

#endif  // MLA_MODEL_GGUF_METADATA_H_
