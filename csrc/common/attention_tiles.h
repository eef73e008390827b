// How the matrices of one head of one sample lie while attention works on them: rows from a multiple of COLUMN_STEP elements on, so that
// every row begins at a cache line, and rows and columns up to a multiple of it filled with zeros.
#pragma once

#include <cstdint>

#include "common/buffer.h"
#include "common/tensors.h"

namespace mixfast {

// At least a block of rows and a vector of any type on any processor (attention_products.h).
constexpr int64_t TILE_STEP = 16;

inline int64_t tile_padded(int64_t count) { return (count + TILE_STEP - 1) / TILE_STEP * TILE_STEP; }

// The tokens of a tensor whose channels lie side by side, as rows of one head of one sample.
template <class Pointer>
struct HeadRows {
  Pointer values;
  int64_t sample_stride, token_stride, head_stride;

  HeadRows(Pointer values, int64_t sample_stride, int64_t token_stride, int64_t head_stride)
      : values(values), sample_stride(sample_stride), token_stride(token_stride), head_stride(head_stride) {}
  Pointer of(int64_t sample, int64_t head) const { return values + sample * sample_stride + head * head_stride; }
};

// A copy only where the last dimension's elements do not lie side by side.
inline Tensor with_dense_channels(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  return tensor.size(last) <= 1 || tensor.stride(last) == 1 ? tensor : as_contiguous(tensor);
}

// Hands out parts of one piece of scratch memory, each from a cache line on.
template <class S>
class Scratch {
 public:
  explicit Scratch(int64_t elements) : memory_(make_buffer<S>(elements)), next_(memory_.get()) {}

  S* take(int64_t elements) {
    S* const part = next_;
    next_ += tile_padded(elements);
    return part;
  }

 private:
  Buffer<S> memory_;
  S* next_;
};

}  // namespace mixfast
