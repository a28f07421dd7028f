#include <algorithm>

#include "io/chat_template/chat_template.h"

namespace mla {

ChatEncoder::ChatEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer), specials_(256) {
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.HasId(id) || !tokenizer.IsSpecial(id)) continue;
    const Result<std::string> piece = tokenizer.IdToPiece(id);
    if (piece.ok() && !piece->empty()) {
      specials_[static_cast<uint8_t>(piece->front())].push_back(*piece);
    }
  }
}

std::vector<ChatEncoder::Match> ChatEncoder::FindSpecials(const RenderedChat& chat) const {
  std::vector<Match> matches;
  const std::string_view text = chat.text;
  for (size_t at = 0; at < text.size(); ++at) {
    for (const std::string& special : specials_[static_cast<uint8_t>(text[at])]) {
      if (!text.substr(at).starts_with(special)) continue;
      const size_t end = at + special.size();
      const bool from_input = chat.from_input.substr(at, special.size()).find('\1') != text.npos;
      matches.push_back({at, end, from_input});
    }
  }
  return matches;
}

// Special tokens are parsed in the whole text but for the stretches that hold one from the
// conversation: such a stretch goes from the template's special token before it to the next one
// after it, so that no other cut changes how the text is tokenised.
Result<std::vector<int32_t>> ChatEncoder::Encode(const RenderedChat& chat) const {
  const std::vector<Match> matches = FindSpecials(chat);
  std::vector<int32_t> ids;
  const auto encode = [&](size_t begin, size_t end, bool parse_special) -> Status {
    if (begin == end) return {};
    MLA_ASSIGN_OR_RETURN(
        const std::vector<int32_t> part,
        tokenizer_.Encode(std::string_view(chat.text).substr(begin, end - begin),
                          {.add_special_tokens = false, .parse_special = parse_special}));
    ids.insert(ids.end(), part.begin(), part.end());
    return {};
  };
  size_t done = 0;          // what is encoded
  size_t template_end = 0;  // of the template's last special token so far
  for (size_t i = 0; i < matches.size(); ++i) {
    if (!matches[i].from_input) {
      template_end = std::max(template_end, matches[i].end);
      continue;
    }
    if (matches[i].begin < done) continue;
    const size_t begin = std::max(done, std::min(template_end, matches[i].begin));
    size_t end = chat.text.size();
    for (size_t j = i + 1; j < matches.size(); ++j) {
      if (!matches[j].from_input && matches[j].begin >= matches[i].end) {
        end = matches[j].begin;
        break;
      }
    }
    MLA_RETURN_IF_ERROR(encode(done, begin, true));
    MLA_RETURN_IF_ERROR(encode(begin, end, false));
    done = end;
  }
  MLA_RETURN_IF_ERROR(encode(done, chat.text.size(), true));
  return ids;
}

}  // namespace mla
