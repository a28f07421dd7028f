// Sizes of AMX tiles.
#ifndef MLA_KERNELS_CPU_AMX_CONFIG_H_
#define MLA_KERNELS_CPU_AMX_CONFIG_H_

#include <cstdint>

namespace mla::cpu::amx {

inline constexpr int kTileRows = 16;
inline constexpr int kTileRowBytes = 64;
inline constexpr int kTileBytes = kTileRows * kTileRowBytes;
inline constexpr int kTileDepth = 32;    // bf16 elements of the summed axis
inline constexpr int kTileColumns = 16;  // f32 columns of C

// Sizes of the tiles, as LDTILECFG reads them. A tile without rows must not be used.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  constexpr void Set(int tile, int tile_rows, int tile_row_bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(tile_row_bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace mla::cpu::amx

#endif  // MLA_KERNELS_CPU_AMX_CONFIG_H_
