#include "model/gguf_model.h"

#include <sys/stat.h>

#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "base/numeric.h"
#include "io/json.h"
#include "model/gguf_names.h"

namespace mla {
namespace {

constexpr int64_t kMaxExpertCount = 1 << 16;

// Gives the file's tensors our names, taking stacked ones apart.
class TensorMapper {
 public:
  TensorMapper(const GgufFile& file, const ModelSpec& spec) : file_(file), spec_(spec) {}

  Status Run() {
    for (const GgufTensor& tensor : file_.tensors()) MLA_RETURN_IF_ERROR(Map(tensor));
    return {};
  }

  std::vector<StoredTensor> tensors;
  std::vector<std::unique_ptr<std::byte[]>> converted;

 private:
  Status Map(const GgufTensor& tensor) {
    const std::optional<TensorPlace> place = ParseGgufName(tensor.name);
    if (!place) return Add(std::string(tensor.name), tensor);
    const bool in_layer = place->layer >= 0;
    if (in_layer && place->suffix == "weight") {
      if (place->part == "attn_k_b") return MapKeyUp(*place, tensor);
      if (place->part == "attn_v_b") return MapValueUp(*place, tensor);
      for (const char* kind : {"gate", "up", "down"}) {
        if (place->part == Concat("ffn_", kind, "_exps")) return MapExperts(*place, kind, tensor);
      }
    }
    if (in_layer && place->part == "exp_probs_b") {
      return Add(HfName(place->layer, "mlp.gate", "e_score_correction_bias"), tensor);
    }
    const std::string_view part = HfPart(place->part, in_layer);
    // What we have no name for keeps its own: it is listed as not used.
    return Add(part.empty() ? std::string(tensor.name) : HfName(place->layer, part, place->suffix),
               tensor);
  }

  template <typename... Parts>
  Error Bad(const GgufTensor& tensor, const Parts&... parts) const {
    return CorruptFile(file_.path(), ": tensor ", Quote(tensor.name), " ", parts...);
  }

  Status Add(std::string name, const GgufTensor& tensor) {
    if (tensor.type->stored) {
      tensors.push_back({std::move(name), *tensor.type->stored, tensor.shape, tensor.data});
      return {};
    }
    // Converted row by row.
    const int64_t cols = tensor.shape.back();
    const int64_t rows = Elements(tensor) / cols;
    MLA_ASSIGN_OR_RETURN(const std::span<uint16_t> halves, NewHalves(tensor));
    std::vector<float> row(cols);
    const int64_t row_bytes = std::ssize(tensor.data) / rows;
    for (int64_t i = 0; i < rows; ++i) {
      DecodeGgufRow(*tensor.type, tensor.data.data() + i * row_bytes, cols, row.data());
      for (int64_t j = 0; j < cols; ++j) halves[i * cols + j] = F32ToF16(row[j]);
    }
    tensors.push_back(
        {std::move(name), StoredDType::kF16, tensor.shape, std::as_bytes(std::span(halves))});
    return {};
  }

  static int64_t Elements(const GgufTensor& tensor) {
    int64_t elements = 1;
    for (const int64_t dim : tensor.shape) elements *= dim;
    return elements;
  }

  std::byte* NewBytes(size_t bytes) {
    converted.push_back(std::unique_ptr<std::byte[]>(new (std::nothrow) std::byte[bytes]));
    return converted.back().get();
  }

  // At most four times what the file holds: the smallest blocks have 4.5 bits an element.
  Result<std::span<uint16_t>> NewHalves(const GgufTensor& tensor) {
    const auto count = static_cast<size_t>(Elements(tensor));
    auto* memory = reinterpret_cast<uint16_t*>(NewBytes(count * sizeof(uint16_t)));
    if (memory == nullptr) {
      return Error{ErrorCode::kOutOfMemory, Concat("no memory for tensor ", Quote(tensor.name),
                                                   " as f16, ", 2 * count, " bytes")};
    }
    return std::span(memory, count);
  }

  // [experts, out, in]: one view per expert.
  Status MapExperts(const TensorPlace& place, const char* kind, const GgufTensor& tensor) {
    if (tensor.shape.size() != 3 || tensor.shape[0] > kMaxExpertCount) {
      return Bad(tensor, "has shape ", ShapeString(tensor.shape), ", want [experts, out, in]");
    }
    MLA_RETURN_IF_ERROR(Add("stacked", tensor));
    const StoredTensor stacked = std::move(tensors.back());
    tensors.pop_back();
    const auto bytes = stacked.data.size() / static_cast<size_t>(stacked.shape[0]);
    for (int64_t e = 0; e < stacked.shape[0]; ++e) {
      tensors.push_back(
          {HfName(place.layer, Concat("mlp.experts.", e, ".", kind, "_proj"), "weight"),
           stacked.dtype,
           {stacked.shape[1], stacked.shape[2]},
           stacked.data.subspan(static_cast<size_t>(e) * bytes, bytes)});
    }
    return {};
  }

  // The heads' dimensions, if the layer is one of MLA and has no combined kv_b: that one is
  // preferred, as it needs no copy.
  const MlaShape* SplitShape(const TensorPlace& place) const {
    if (static_cast<size_t>(place.layer) >= spec_.layers.size()) return nullptr;
    const auto* mla = std::get_if<MlaSpec>(&spec_.layers[place.layer].attention);
    if (mla == nullptr || file_.FindTensor(GgufName(place.layer, "attn_kv_b", "weight"))) {
      return nullptr;
    }
    return &mla->shape;
  }

  Status CheckShape(const GgufTensor& tensor, const std::vector<int64_t>& want) const {
    if (tensor.shape == want) return {};
    return Bad(tensor, "has shape ", ShapeString(tensor.shape), ", want ", ShapeString(want));
  }

  // [heads, v_head_dim, kv_lora_rank]: as v_b_proj has it.
  Status MapValueUp(const TensorPlace& place, const GgufTensor& tensor) {
    const MlaShape* s = SplitShape(place);
    if (s == nullptr) return Add(std::string(tensor.name), tensor);
    MLA_RETURN_IF_ERROR(CheckShape(tensor, {s->heads, s->v_head_dim, s->kv_lora_rank}));
    MLA_RETURN_IF_ERROR(Add(HfName(place.layer, "self_attn.v_b_proj", "weight"), tensor));
    tensors.back().shape = {int64_t{s->heads} * s->v_head_dim, s->kv_lora_rank};
    return {};
  }

  // [heads, kv_lora_rank, qk_nope_head_dim], to [heads * qk_nope_head_dim, kv_lora_rank].
  Status MapKeyUp(const TensorPlace& place, const GgufTensor& tensor) {
    const MlaShape* s = SplitShape(place);
    if (s == nullptr) return Add(std::string(tensor.name), tensor);
    const int64_t rank = s->kv_lora_rank, d_n = s->qk_nope_head_dim;
    MLA_RETURN_IF_ERROR(CheckShape(tensor, {s->heads, rank, d_n}));
    const bool plain = tensor.type->stored && SizeOf(*tensor.type->stored) > 0;
    const StoredDType stored = plain ? *tensor.type->stored : StoredDType::kF16;
    const size_t size = SizeOf(stored);
    const size_t bytes = static_cast<size_t>(Elements(tensor)) * size;
    std::byte* to = NewBytes(bytes);
    if (to == nullptr) {
      return Error{ErrorCode::kOutOfMemory,
                   Concat("no memory for tensor ", Quote(tensor.name), ", ", bytes, " bytes")};
    }
    const int64_t row_bytes = std::ssize(tensor.data) / (s->heads * rank);
    std::vector<float> row(d_n);
    std::vector<uint16_t> halves(d_n);
    for (int64_t i = 0; i < s->heads * rank; ++i) {
      const std::byte* from = tensor.data.data() + i * row_bytes;
      if (!plain) {
        DecodeGgufRow(*tensor.type, from, d_n, row.data());
        for (int64_t j = 0; j < d_n; ++j) halves[j] = F32ToF16(row[j]);
        from = reinterpret_cast<const std::byte*>(halves.data());
      }
      const int64_t head = i / rank, column = i % rank;
      for (int64_t j = 0; j < d_n; ++j) {
        std::memcpy(to + static_cast<size_t>((head * d_n + j) * rank + column) * size,
                    from + static_cast<size_t>(j) * size, size);
      }
    }
    tensors.push_back({HfName(place.layer, "self_attn.k_b_proj", "weight"),
                       stored,
                       {s->heads * d_n, rank},
                       std::span<const std::byte>(to, bytes)});
    return {};
  }

  const GgufFile& file_;
  const ModelSpec& spec_;
};

}  // namespace

bool IsGgufPath(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) return S_ISREG(info.st_mode);
  return path.ends_with(".gguf");
}

Result<GgufModel> LoadGgufModel(const std::string& path) {
  MLA_ASSIGN_OR_RETURN(GgufFile file, GgufFile::Open(path));
  MLA_ASSIGN_OR_RETURN(ModelSpec spec, ReadGgufSpec(file));
  TensorMapper mapper(file, spec);
  MLA_RETURN_IF_ERROR(mapper.Run());
  MLA_ASSIGN_OR_RETURN(Checkpoint checkpoint,
                       Checkpoint::FromGguf(std::move(file), std::move(mapper.tensors),
                                            std::move(mapper.converted)));
  return GgufModel{std::move(spec), std::move(checkpoint)};
}

}  // namespace mla
