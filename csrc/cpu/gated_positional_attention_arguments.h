// What the loops of gated_positional_attention are given, and how the matrices of one head of one sample lie.
#pragma once

#include "common/buffer.h"
#include "common/tensors.h"

namespace mixfast {
namespace {

// Elements that rows are padded to, so that each begins at a cache line; also at least a block of rows of a product.
constexpr int64_t STEP = 16;

inline int64_t padded(int64_t count) { return (count + STEP - 1) / STEP * STEP; }

// Heads whose tokens backward takes from a sample before it goes to the next: their sums over samples should stay in a core's cache.
constexpr int64_t HEADS_AT_ONCE = 4;

struct Sizes {
  int64_t batch, count, heads, width;  // B, N, h, e
  int64_t block;                       // queries whose columns of the N x N matrices are worked on at once, a multiple of STEP

  // From one token to the next in rows of tokens, and from one channel to the next in columns of tokens.
  int64_t row_step() const { return padded(width); }
  int64_t column_step() const { return padded(count); }
  // Elements of all tokens, by rows or by columns; of a block of columns.
  int64_t tokens() const { return padded(count) * padded(width); }
  int64_t block_columns() const { return padded(count) * block; }
  int64_t head_blocks() const { return (heads + HEADS_AT_ONCE - 1) / HEADS_AT_ONCE; }
};

// One tensor's rows of e channels. Pointer: to const or not.
template <class Pointer>
struct HeadRows {
  Pointer values;
  int64_t sample_step, row_step, head_step;

  Pointer of(int64_t sample, int64_t head) const { return values + sample * sample_step + head * head_step; }
};

// Queries, keys and values, or their gradients, in [B, N, 3, h, e].
template <class Pointer>
struct PackedRows {
  HeadRows<Pointer> queries, keys, values;
};

template <class T>
struct Inputs {
  using S = sum_t<T>;
  Sizes sizes;
  PackedRows<const T*> qkv;
  const S* positional;  // [h, N, padded(N)], transposed: from a key to the next, its queries side by side
  const S* gate;        // [h]
  S scale;
};

template <class T>
struct Result {
  HeadRows<T*> rows;
  sum_t<T>* logsumexp;  // [B, h, N]
  bool stream;          // rows are written past the caches (streaming.h)
};

template <class T>
struct Gradients {
  using S = sum_t<T>;
  HeadRows<const T*> grad;
  const S* logsumexp;  // [B, h, N]
  PackedRows<T*> qkv;
  int64_t groups;
  // Sums over the samples of a group: of v grad^T, [groups, h, N, padded(N)], and of the gate's gradients, [groups, h].
  S* combined;
  double* gate;
  bool stream;  // qkv's rows are written past the caches (streaming.h)
};

// Hands out parts of one piece of scratch memory, zeros at first, each from a cache line on.
template <class S>
class Scratch {
 public:
  explicit Scratch(int64_t elements) : memory_(make_buffer<S>(elements)), next_(memory_.get()) {
    std::fill_n(next_, elements, S(0));
  }

  S* take(int64_t elements) {
    S* const part = next_;
    next_ += padded(elements);
    return part;
  }

 private:
  Buffer<S> memory_;
  S* next_;
};

}  // namespace
}  // namespace mixfast
