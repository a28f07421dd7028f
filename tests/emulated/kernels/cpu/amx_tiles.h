// The functions of src/kernels/cpu/amx_tiles.h in C++, for machines without AMX: see there. Sizes
// that do not fit each other end the program, as they would raise an exception in the processor.
#ifndef MLA_KERNELS_CPU_AMX_TILES_H_
#define MLA_KERNELS_CPU_AMX_TILES_H_

#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/amx_config.h"

namespace mla::cpu::amx {

struct EmulatedTiles {
  bool configured = false;
  TileConfig config;
  alignas(64) uint8_t data[8][kTileBytes];
};
inline thread_local EmulatedTiles emulated_tiles;

inline void Configure(const TileConfig& config) {
  EmulatedTiles& t = emulated_tiles;
  MLA_CHECK(config.palette == 1 && config.start_row == 0, "palette ", int{config.palette});
  for (int i = 0; i < 16; ++i) {
    MLA_CHECK(i < 8 || config.rows[i] == 0, "there is no tile ", i);
    MLA_CHECK(config.rows[i] <= kTileRows && config.row_bytes[i] <= kTileRowBytes &&
                  config.row_bytes[i] % 4 == 0 &&
                  (config.rows[i] == 0) == (config.row_bytes[i] == 0),
              "tile ", i, " of ", int{config.rows[i]}, " rows of ", config.row_bytes[i], " bytes");
  }
  t.configured = true;
  t.config = config;
  std::memset(t.data, 0, sizeof(t.data));
}
inline void Release() { emulated_tiles.configured = false; }

// The tile, which must have been given a size.
inline uint8_t* EmulatedTile(int tile) {
  EmulatedTiles& t = emulated_tiles;
  MLA_CHECK(t.configured && t.config.rows[tile] > 0, "tile ", tile, " is not configured");
  return t.data[tile];
}

template <int kTile>
void Zero() {
  std::memset(EmulatedTile(kTile), 0, kTileBytes);
}
template <int kTile>
void Load(const void* from, int64_t stride) {
  uint8_t* tile = EmulatedTile(kTile);
  const TileConfig& config = emulated_tiles.config;
  std::memset(tile, 0, kTileBytes);
  for (int row = 0; row < config.rows[kTile]; ++row) {
    std::memcpy(tile + row * kTileRowBytes, static_cast<const char*>(from) + row * stride,
                config.row_bytes[kTile]);
  }
}
template <int kTile>
void Store(void* to, int64_t stride) {
  const uint8_t* tile = EmulatedTile(kTile);
  const TileConfig& config = emulated_tiles.config;
  for (int row = 0; row < config.rows[kTile]; ++row) {
    std::memcpy(static_cast<char*>(to) + row * stride, tile + row * kTileRowBytes,
                config.row_bytes[kTile]);
  }
}

// Of a pair of bf16, as a number of f32.
inline float EmulatedBf16(uint32_t pair, int which) {
  uint32_t bits = which == 0 ? pair << 16 : pair & 0xffff0000u;
  if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

template <int kC, int kA, int kB>
void DotBf16() {
  uint8_t* const c = EmulatedTile(kC);
  const uint8_t* const a = EmulatedTile(kA);
  const uint8_t* const b = EmulatedTile(kB);
  const TileConfig& config = emulated_tiles.config;
  const int rows = config.rows[kC], depth = config.rows[kB], bytes = config.row_bytes[kC];
  MLA_CHECK(
      config.rows[kA] == rows && config.row_bytes[kA] == 4 * depth && config.row_bytes[kB] == bytes,
      "tiles of other sizes");
  float columns[2][kTileRows][kTileColumns];
  for (int k = 0; k < depth; ++k) {
    for (int n = 0; n < kTileColumns; ++n) {
      uint32_t pair;
      std::memcpy(&pair, b + k * kTileRowBytes + 4 * n, sizeof(pair));
      for (int i = 0; i < 2; ++i) columns[i][k][n] = EmulatedBf16(pair, i);
    }
  }
  for (int m = 0; m < rows; ++m) {
    float sums[2][kTileColumns] = {};
    for (int k = 0; k < depth; ++k) {
      uint32_t pair;
      std::memcpy(&pair, a + m * kTileRowBytes + 4 * k, sizeof(pair));
      for (int i = 0; i < 2; ++i) {
        const float x = EmulatedBf16(pair, i);
        for (int n = 0; n < kTileColumns; ++n) {
          sums[i][n] += x * columns[i][k][n];  // the product is exact
        }
      }
    }
    float* const row = reinterpret_cast<float*>(c + m * kTileRowBytes);
    for (int n = 0; n < bytes / 4; ++n) row[n] += sums[0][n] + sums[1][n];
  }
}

}  // namespace mla::cpu::amx

#endif  // MLA_KERNELS_CPU_AMX_TILES_H_
