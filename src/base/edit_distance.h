// How far a word is from another: for "did you mean".
#ifndef MLA_BASE_EDIT_DISTANCE_H_
#define MLA_BASE_EDIT_DISTANCE_H_

#include <cstddef>
#include <string_view>

namespace mla {

// Edits (insert, delete, replace a character) from one word to the other.
size_t EditDistance(std::string_view a, std::string_view b);

}  // namespace mla

#endif  // MLA_BASE_EDIT_DISTANCE_H_
