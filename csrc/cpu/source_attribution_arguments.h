// What the loops of source_attribution are given.
#pragma once

#include "common/tensors.h"

namespace mixfast {
namespace {

// Tokens [B, N, d], dense inside each sample. Token t is number t % N of sample t / N. Pointer: to const or not.
template <class Pointer>
struct TokenRows {
  Pointer values;
  int64_t positions, width;
  int64_t gap;  // elements between one sample's last token and the next one's first; mostly 0, which saves the division

  Pointer row(int64_t token) const { return values + token * width + (gap == 0 ? 0 : token / positions * gap); }
};

// One sample's mix of biases.
template <class S>
struct BiasMix {
  const S* bias;  // [sources, d]
  int64_t sources;
  const S* inside;  // weights of the sources in the two zones
  const S* outside;
  const S* covered;  // shares of the positions
  const S* uncovered;
};

// What scatter adds up for each token of a chunk.
template <class S>
struct ChunkResult {
  const int64_t* tokens;
  int64_t count;
  const S* rows;
  const S* products;
  const S* bias;     // [sources, d]
  const S* weights;  // [sources, count]
  int64_t sources;   // 0: no bias
};

// A copy only where a sample's tokens do not lie side by side.
Tensor with_dense_samples(const Tensor& tokens_BND) {
  const bool dense_rows = tokens_BND.size(2) <= 1 || tokens_BND.stride(2) == 1;
  const bool dense_tokens = tokens_BND.size(1) <= 1 || tokens_BND.stride(1) == tokens_BND.size(2);
  return dense_rows && dense_tokens ? tokens_BND : as_contiguous(tokens_BND);
}

template <class Pointer>
TokenRows<Pointer> rows_of(const Tensor& tokens_BND, Pointer values) {
  const int64_t positions = tokens_BND.size(1), width = tokens_BND.size(2);
  return {values, positions, width, tokens_BND.size(0) <= 1 ? 0 : tokens_BND.stride(0) - positions * width};
}

template <class S>
Tensor in_sums_dtype(const Tensor& tensor) {
  return as_contiguous_in(tensor, sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float);
}

struct Gradients {
  Tensor tokens, inside, outside, bias, weight;
};

// Tensors of the right shape in the dtype that sums are taken in, those that are not wanted empty.
template <class S>
Gradients empty_gradients(const Tensor& grad, const Tensor& inside, const Tensor& bias, const OptionalTensor& weight, bool zones) {
  const ScalarType sums = sum_dtype(grad.scalar_type());
  const std::vector<int64_t> zone_sizes = zones ? sizes_of(inside) : std::vector<int64_t>{0};
  return {empty(weight ? sizes_of(grad) : std::vector<int64_t>{0}, grad.scalar_type()), empty(zone_sizes, sums),
          empty(zone_sizes, sums), empty(sizes_of(bias), sums),
          empty(weight ? sizes_of(*weight) : std::vector<int64_t>{0}, weight ? sums : grad.scalar_type())};
}

}  // namespace
}  // namespace mixfast
