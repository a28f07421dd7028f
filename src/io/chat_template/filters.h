// The table of filters.
#ifndef MLA_IO_CHAT_TEMPLATE_FILTERS_H_
#define MLA_IO_CHAT_TEMPLATE_FILTERS_H_

#include <span>
#include <string_view>

#include "io/chat_template/functions.h"

namespace mla::jinja {

struct FilterCall {
  const Environment& env;
  std::string_view name;
  const Value& value;
  const CallArguments& arguments;
};

struct FilterEntry {
  std::string_view name;
  Result<Value> (*apply)(const FilterCall&);
};

// Those that take lists, strings or dicts apart.
std::span<const FilterEntry> SequenceFilters();

}  // namespace mla::jinja

#endif  // MLA_IO_CHAT_TEMPLATE_FILTERS_H_
