#include "apps/text_pieces.h"

#include <algorithm>

namespace mla {
namespace {

std::string_view Strip(std::string_view text) {
  constexpr std::string_view kSpaces = " \t\n\r\f\v";
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}

}  // namespace

std::vector<std::string_view> SplitPieces(std::string_view text, std::string_view separator) {
  if (separator.empty()) return {text};
  std::vector<std::string_view> pieces;
  while (true) {
    const size_t end = text.find(separator);
    const std::string_view piece = Strip(text.substr(0, end));
    if (!piece.empty()) pieces.push_back(piece);
    if (end == std::string_view::npos) return pieces;
    text.remove_prefix(end + separator.size());
  }
}

std::vector<std::vector<int32_t>> WindowsOf(std::span<const int32_t> tokens, int32_t bos,
                                            int32_t context) {
  const auto predicted = static_cast<size_t>(context - 1);
  std::vector<std::vector<int32_t>> windows;
  for (size_t begin = bos >= 0 ? 0 : 1; begin < tokens.size(); begin += predicted) {
    const auto part = tokens.subspan(begin, std::min(predicted, tokens.size() - begin));
    std::vector<int32_t>& ids = windows.emplace_back(1, bos >= 0 ? bos : tokens[begin - 1]);
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return windows;
}

}  // namespace mla
