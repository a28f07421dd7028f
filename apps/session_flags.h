// MODEL and the flags that say how it runs, the same for every command that runs one.
#ifndef MLA_APPS_SESSION_FLAGS_H_
#define MLA_APPS_SESSION_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "engine/session.h"
#include "io/tokenizer/tokenizer.h"
#include "mla/result.h"
#include "model/model.h"

namespace mla {

// Where the repository keeps the model that `mla run` takes if none is named.
inline constexpr const char* kBundledModel = "models/stories-mla-9m";

struct SessionFlags {
  std::string model;  // a Hugging Face directory or a GGUF file

  int32_t context = 0;
  int32_t threads = 0;
  int32_t page_size = 64;
  int32_t prefill_chunk = SessionOptions().prefill_chunk;
  std::string kv_dtype;  // empty: the session's choice
  std::string compute;   // empty: the session's choice
  std::string attention = "auto";
  std::string quantize;  // empty: weights as stored

  void AddModel(CLI::App& app, bool required = true);
  void AddSession(CLI::App& app);  // AddCacheForm and AddQuantize among them
  // What the bytes of a token in the cache depend on: --kv-dtype, --attention and --compute.
  void AddCacheForm(CLI::App& app);
  void AddQuantize(CLI::App& app);
  SessionOptions ToOptions() const;
  // What quantised weights are decoded to, where they have to be (BindWeights): as --compute is.
  DType DecodedWeights() const;
};

// A model and its tokenizer. Errors name the file at fault.
struct LoadedModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<Tokenizer> tokenizer;
};
Result<std::unique_ptr<Model>> LoadModel(const std::string& dir, DType decoded = DType::kF32);
// Quantises the weights as --quantize says, with a progress bar.
void QuantiseAsAsked(const SessionFlags& flags, Model& model);
// As --compute and --quantize say.
Result<std::unique_ptr<Model>> LoadModel(const SessionFlags& flags);
Result<LoadedModel> LoadModelAndTokenizer(const SessionFlags& flags);

// -1: the model has none.
int32_t BosId(const LoadedModel& loaded);
int32_t EosId(const LoadedModel& loaded);  // the first of several

// The text as a prompt: with what the tokenizer puts before a text, without an end of sequence
// after it. Special tokens written out in it stay text.
Result<std::vector<int32_t>> EncodePrompt(const LoadedModel& loaded, std::string_view text);

// The bytes that the sequence holds in the cache, and what MHA with the same heads would hold.
struct CacheUse {
  int64_t tokens = 0, bytes = 0, mha_bytes = 0;
  double ratio() const { return bytes > 0 ? static_cast<double>(mha_bytes) / bytes : 0; }
};
CacheUse MeasureCache(const Session& session);

// "compute bf16, KV cache bf16, avx512_bf16, 2 threads", and the same for JSON.
std::string DescribeSession(const Session& session);
nlohmann::ordered_json SessionJson(const Session& session);

}  // namespace mla

#endif  // MLA_APPS_SESSION_FLAGS_H_
