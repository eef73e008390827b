// How large results are written: past the caches, tile by tile from a small buffer (zone_rows.h).
#pragma once

#include <algorithm>
#include <cstdint>

namespace mixfast {

// Writing around the caches does not read the old contents first. From here on that saves up to half the time, and the operator
// that reads the result next loses no more than that.
constexpr int64_t STREAM_FROM_BYTES = 4 << 20;

// Elements of a tile: several short rows, or one long one, and room for a vector that reaches past its end.
constexpr int64_t TILE = 1024;

inline int64_t tile_capacity(int64_t row_elements) { return std::max(TILE, row_elements) + 64; }

}  // namespace mixfast
