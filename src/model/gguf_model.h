// Models in GGUF files: their metadata become the same ModelSpec, and their tensors the same
// checkpoint, that a Hugging Face directory gives, so that one model code runs both.
#ifndef MLA_MODEL_GGUF_MODEL_H_
#define MLA_MODEL_GGUF_MODEL_H_

#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/gguf.h"
#include "mla/result.h"
#include "model/spec.h"

namespace mla {

// True for a path that is a file (or looks like one: it ends in .gguf), not a directory.
bool IsGgufPath(const std::string& path);

// Architectures deepseek2, llama, qwen2 and qwen3. Keys that are missing, of the wrong type or out
// of range are errors that name the file, the key and the value. eos_ids are the tokens that end a
// sequence, a turn and a message.
Result<ModelSpec> ReadGgufSpec(const GgufFile& file);

struct GgufModel {
  ModelSpec spec;
  Checkpoint checkpoint;
};

// Tensors are used where they are mapped, quantised or not, with these exceptions, converted to
// memory of their own: Q4_1 and Q5_1 to f16; and of files that split kv_b, k_b, which GGUF stores
// per head as [kv_lora_rank, qk_nope_head_dim], is transposed (quantised: as f16).
Result<GgufModel> LoadGgufModel(const std::string& path);

}  // namespace mla

#endif  // MLA_MODEL_GGUF_MODEL_H_
