// The names of tensors in GGUF and in Hugging Face checkpoints, in both directions.
#ifndef MLA_MODEL_GGUF_NAMES_H_
#define MLA_MODEL_GGUF_NAMES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mla {

// A tensor's place: in a layer (-1: none), by the part's name in that format, with its suffix:
// "blk.3.attn_q.weight" is {3, "attn_q", "weight"}.
struct TensorPlace {
  int32_t layer = -1;
  std::string_view part;
  std::string_view suffix;  // "weight", "bias"
};

// Empty for names that are not of the form.
std::optional<TensorPlace> ParseGgufName(std::string_view name);  // blk.I.PART.SUFFIX
std::optional<TensorPlace> ParseHfName(std::string_view name);    // model.layers.I.PART.SUFFIX

// The other format's name of a part; empty if there is none. Experts, stacked in one and apart in
// the other, are not among them.
std::string_view HfPart(std::string_view gguf_part, bool in_layer);
std::string_view GgufPart(std::string_view hf_part, bool in_layer);

std::string HfName(int32_t layer, std::string_view part, std::string_view suffix);
std::string GgufName(int32_t layer, std::string_view part, std::string_view suffix);

// What a GGUF file calls the tensor of this Hugging Face name, or holds it in, for messages:
// "blk.3.ffn_up_exps.weight (expert 7)". A name that has no other stays.
std::string GgufNameOf(std::string_view hf_name);

}  // namespace mla

#endif  // MLA_MODEL_GGUF_NAMES_H_
