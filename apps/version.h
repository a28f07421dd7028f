// What this build is.
#ifndef MLA_APPS_VERSION_H_
#define MLA_APPS_VERSION_H_

#include <string_view>

namespace mla {

std::string_view Version();  // "0.1.0"
std::string_view Commit();   // of the source tree when it was configured, or "unknown"

}  // namespace mla

#endif  // MLA_APPS_VERSION_H_
