// What the loops of talking_heads_attention are given, and how their matrices lie.
#pragma once

#include "common/tensors.h"

namespace mixfast {
namespace {

// Rows of the matrices in a core's memory are filled up to whole vectors of every instruction set, tiles to whole blocks of rows.
constexpr int64_t PADDED_TO = 16;
constexpr int64_t TILE_ROWS = 16;

inline int64_t padded(int64_t size) { return (size + PADDED_TO - 1) / PADDED_TO * PADDED_TO; }

// One sample's rows: [N, h, e], dense in e. Pointer: to const or not.
template <class Pointer>
struct HeadRows {
  Pointer values;
  int64_t sample_step, row_step, head_step;

  Pointer at(int64_t sample, int64_t row, int64_t head) const {
    return values + sample * sample_step + row * row_step + head * head_step;
  }
};

template <class S>
struct HeadMixing {
  const S* pre_weight;   // [h, h]
  const S* post_weight;  // [h, h]
  const S* post_bias;    // [h]
};

struct Sizes {
  int64_t batch, count, heads, width;
  // A sample's rows are dealt to this many tasks; it depends on the sizes alone, so that sums over rows do not depend on threads.
  int64_t chunks;

  int64_t columns() const { return padded(count); }        // of a row of logits
  int64_t head_columns() const { return padded(width); }   // of a row of queries, keys, values
  int64_t tile() const { return heads * TILE_ROWS * columns(); }       // all heads' logits of a tile of rows
  int64_t tile_rows() const { return heads * TILE_ROWS * head_columns(); }  // all heads' queries of a tile
  int64_t by_rows() const { return heads * columns() * head_columns(); }  // all heads' keys, row after row
  int64_t by_columns() const { return heads * padded(width) * columns(); }  // all heads' keys, column after column
};

// A sample's rows begin..end.
struct Task {
  int64_t sample, begin, end;
};

template <class T>
struct ForwardArguments {
  using S = sum_t<T>;
  Sizes sizes;
  HeadRows<const T*> query, key, value;
  HeadMixing<S> mixing;
  S scale;
  T* out;        // [B, N, h, e]
  S* logsumexp;  // [B, h, N]

  int64_t scratch() const {
    return 2 * sizes.tile() + 2 * sizes.tile_rows() + sizes.by_rows() + sizes.by_columns() + 2 * sizes.heads * sizes.heads;
  }
};

template <class T>
struct BackwardArguments {
  using S = sum_t<T>;
  Sizes sizes;
  HeadRows<const T*> query, key, value, grad;
  HeadMixing<S> mixing;
  S scale;
  const S* logsumexp;  // [B, h, N]
  HeadRows<T*> grad_query, grad_key, grad_value;

  int64_t scratch() const {
    return 5 * sizes.tile() + 3 * sizes.tile_rows() + sizes.by_rows() + 2 * sizes.by_columns();
  }
  // A task's sums over its rows: gradients of keys and values, [2, h, N padded, e padded].
  int64_t sums() const { return 2 * sizes.by_rows(); }
  // Gradients of pre_weight, post_weight and post_bias.
  int64_t parameters() const { return (2 * sizes.heads + 1) * sizes.heads; }
};

}  // namespace
}  // namespace mixfast
