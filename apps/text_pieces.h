// A text to be scored, as its parts.
#ifndef MLA_APPS_TEXT_PIECES_H_
#define MLA_APPS_TEXT_PIECES_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace mla {

// The pieces between separators, stripped of white space; empty ones left out. They point into
// `text`. An empty separator: the whole text, as it is.
std::vector<std::string_view> SplitPieces(std::string_view text, std::string_view separator);

// Consecutive windows of at most `context` tokens, 2 or more, each beginning with `bos`, so that
// every token is predicted once. A model without BOS (-1) predicts from a window's first token, the
// last one of the window before.
std::vector<std::vector<int32_t>> WindowsOf(std::span<const int32_t> tokens, int32_t bos,
                                            int32_t context);

}  // namespace mla

#endif  // MLA_APPS_TEXT_PIECES_H_
