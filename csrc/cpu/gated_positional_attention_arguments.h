// What the loops of gated_positional_attention are given.
#pragma once

#include "common/attention_tiles.h"

namespace mixfast {
namespace {

struct AttentionSizes {
  int64_t batch, count, heads, width;  // B, N, h, e

  int64_t padded_count() const { return tile_padded(count); }
  // Elements of a tile of queries, of keys or of values.
  int64_t tile() const { return tile_padded(count) * tile_padded(width); }
};

// Queries, keys and values, or their gradients, in [B, N, 3, h, e].
template <class Pointer>
struct PackedRows {
  HeadRows<Pointer> queries, keys, values;
};

template <class T>
struct AttentionInputs {
  using S = sum_t<T>;
  AttentionSizes sizes;
  PackedRows<const T*> qkv;
  const S* positional;  // [h, N, N]
  const S* gate;        // [h]
  S scale;

  const S* positional_row(int64_t head, int64_t query) const {
    return positional + (head * sizes.count + query) * sizes.count;
  }
};

template <class T>
struct AttentionResult {
  HeadRows<T*> result;
  sum_t<T>* logsumexp;  // [B, h, N]
};

template <class T>
struct AttentionGradients {
  using S = sum_t<T>;
  HeadRows<const T*> grad;
  const S* logsumexp;  // [B, h, N]
  PackedRows<T*> qkv;
  // Partial sums over the samples of a group: of grad v^T, [groups, h, N, tile_padded(N)], and of A * grad v^T over all of a head's
  // positions, [groups, h].
  S* combined;
  double* seen;
};

// As many rows of the N x N matrices as are worked on at once: they and what they are multiplied by should stay in the first cache.
inline int64_t rows_at_once(const AttentionSizes& sizes, int64_t element_bytes, int64_t cache_bytes) {
  const int64_t rows = cache_bytes / (sizes.padded_count() * element_bytes) / TILE_STEP * TILE_STEP;
  return std::min(std::max(rows, TILE_STEP), sizes.padded_count());
}

}  // namespace
}  // namespace mixfast
