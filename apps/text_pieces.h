// A file of many texts, as its parts.
#ifndef MLA_APPS_TEXT_PIECES_H_
#define MLA_APPS_TEXT_PIECES_H_

#include <string_view>
#include <vector>

namespace mla {

// The pieces between separators, stripped of white space; empty ones left out. They point into
// `text`. An empty separator: the whole text, as it is.
std::vector<std::string_view> SplitPieces(std::string_view text, std::string_view separator);

}  // namespace mla

#endif  // MLA_APPS_TEXT_PIECES_H_
