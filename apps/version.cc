#include "apps/version.h"

namespace mla {

std::string_view Version() { return MLA_VERSION; }
std::string_view Commit() { return MLA_COMMIT; }

}  // namespace mla
