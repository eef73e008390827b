// The loops of few_rows_linear; included once for each instruction set (common/each_isa.h).

#include "common/zone_rows.h"

// Rows of x at a time: their sums with a tile of the matrix stay in registers.
constexpr int ROWS = MIXFAST_AVX512 ? 4 : 2;

// R rows of x from `first`, by K rows of the matrix from `output`.
template <int R, int K, class T>
inline void multiply_tile(const LinearArguments<T>& a, int64_t first, int64_t output) {
  using S = sum_t<T>;
  const T* weight = a.weight + output * a.weight_step;
  const S* rows = a.rows + first * a.stride;
  Vector<S> sums[R][K] = {};
  for_each_vector<S>(a.inputs, [&](int64_t c, auto extent) {
    Vector<S> values[K];
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) {
      values[k] = load_at(weight + k * a.weight_step + c, extent);
      prefetch(weight + (K + k) * a.weight_step + c);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vector<S> row = load(rows + r * a.stride + c);
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) sums[r][k] += row * values[k];
    }
  });
  for (int r = 0; r < R; ++r) {
    T* result = a.result + (first + r) * a.outputs + output;
    for (int k = 0; k < K; ++k) store_one(result + k, sum_lanes<S>(sums[r][k]) + (a.bias ? a.bias[output + k] : S(0)));
  }
}

template <int K, class T>
inline void multiply_rows(const LinearArguments<T>& a, int64_t output) {
  int64_t r = 0;
  for (; r + ROWS <= a.count; r += ROWS) multiply_tile<ROWS, K>(a, r, output);
  for (; r + 2 <= a.count; r += 2) multiply_tile<2, K>(a, r, output);
  if (r < a.count) multiply_tile<1, K>(a, r, output);
}

// Tiles of the matrix's rows; behind the last whole one, row by row.
template <class T>
void multiply_tiles(const LinearArguments<T>& a, int64_t begin, int64_t end) {
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t output = tile * OUTPUTS;
    if (output + OUTPUTS <= a.outputs) {
      multiply_rows<OUTPUTS>(a, output);
    } else {
      for (int64_t last = output; last < a.outputs; ++last) multiply_rows<1>(a, last);
    }
  }
}
