// Writing models as GGUF files that other programs of the format read: their tensor names, layouts
// and metadata.
#ifndef MLA_MODEL_GGUF_EXPORT_H_
#define MLA_MODEL_GGUF_EXPORT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/stored_tensor.h"
#include "mla/result.h"
#include "model/model.h"

namespace mla {

class ThreadPool;

struct GgufExportOptions {
  StoredDType type = StoredDType::kQ8_0;  // see ParseGgufExportType
  std::vector<int32_t> eos_ids;           // that end a text, beside those of config and tokenizer
  ThreadPool* threads = nullptr;
  // Numbers written; may be empty. Returns false to stop: kCancelled.
  std::function<bool(int64_t done, int64_t total)> progress;
  // Lines that a user should see, as soon as they are known: what is left out, what is stored
  // otherwise than asked for. May be empty.
  std::function<void(const std::string& line)> note;
};

struct GgufExportReport {
  std::map<std::string, int64_t> tensors;  // how many of each type there are
  int64_t bytes = 0;                       // of all tensors
  int64_t numbers = 0;
};

// Of "f32", "f16", "bf16", "q8_0", "q4_0", "q5_0", "q4_k", "q5_k", "q6_k".
std::optional<StoredDType> ParseGgufExportType(std::string_view name);

// What a tensor of the file becomes, by its name and the length of its rows. Vectors and the
// routers of mixtures are f32. The head, which is the most sensitive, is q6_K where the others have
// 4 or 5 bits; `tied`: the embedding is the head too. Rows that are no whole blocks: q4_K becomes
// q5_0, q5_K and q6_K become q8_0, and rows that are no multiple of 32 stay plain, bf16 if `stored`
// is that and f16 otherwise. `rank`: number of dimensions.
StoredDType GgufExportType(std::string_view name, StoredDType wanted, StoredDType stored,
                           size_t rank, int64_t cols, bool tied);

// Writes a model that was loaded from the Hugging Face directory `dir`: MLA as architecture
// deepseek2 (kv_b split, experts stacked), others as llama, qwen2 or qwen3, with the directory's
// tokenizer and chat template. The metadata are read back before anything is written, and what they
// say is held against the model's own spec: kUnsupported, naming the setting, for one that the
// format cannot state. kInvalidArgument, with tensor and place, for numbers that the type cannot
// hold. After an error nothing is left of the file.
Result<GgufExportReport> ExportGguf(const Model& model, const std::string& dir,
                                    const std::string& path, const GgufExportOptions& options);

// The same for another GGUF file, of any architecture: its metadata and tensors, in another type.
Result<GgufExportReport> RequantiseGguf(const std::string& from, const std::string& path,
                                        const GgufExportOptions& options);

}  // namespace mla

#endif  // MLA_MODEL_GGUF_EXPORT_H_
