// What machines can do at best: the ceilings that plans are held against.
#ifndef MLA_APPS_MACHINE_H_
#define MLA_APPS_MACHINE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "mla/result.h"

namespace mla {

struct Machine {
  std::string name;
  double memory_bytes = 0;      // 0: not said
  double bytes_per_second = 0;  // of its memory
  double flops = 0;             // per second, dense bf16 products with fp32 accumulation
  std::string source;
};

std::span<const Machine> NamedMachines();

// By name, letter case aside; "this" is measured, which takes about a second. kNotFound lists the
// names.
Result<Machine> FindMachine(std::string_view name);

// "80GiB", "24 GB", "512MiB": bytes. Units: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB.
Result<int64_t> ParseSize(std::string_view text);

}  // namespace mla

#endif  // MLA_APPS_MACHINE_H_
