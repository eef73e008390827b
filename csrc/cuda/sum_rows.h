// The second pass of a sum over blocks: [rows, columns] to [columns], always in the same order.
#pragma once

#include "cuda/device_tensors.h"

namespace mixfast {

template <class S>
struct SumRows {
  static constexpr int THREADS = 256, COLUMNS = 32, SLICES = THREADS / COLUMNS;
  const S* parts;
  S* sums;
  int64_t rows, columns;

  // Neighbouring threads read neighbouring columns; each slice of threads sums every eighth row. In double: it costs nothing
  // here, and there may be many rows.
  MIXFAST_DEVICE void operator()(Block& block) const {
    double* sums_of_slices = block.take<double>(THREADS);
    const int64_t first = block.index * COLUMNS;
    block.phase([&](int thread) {
      const int64_t column = first + thread % COLUMNS;
      double sum = 0;
      if (column < columns) {
        for (int64_t row = thread / COLUMNS; row < rows; row += SLICES) sum += double(parts[row * columns + column]);
      }
      sums_of_slices[thread] = sum;
    });
    block.phase([&](int thread) {
      if (thread >= COLUMNS || first + thread >= columns) return;
      double sum = 0;
      for (int slice = 0; slice < SLICES; ++slice) sum += sums_of_slices[slice * COLUMNS + thread];
      sums[first + thread] = S(sum);
    });
  }
};

// [rows, ...] to [...] in the type S.
template <class S>
Tensor sum_rows(const Tensor& parts, const std::vector<int64_t>& sizes) {
  const Tensor sums = device_empty(parts, sizes, dtype_of_sums<S>());
  using Body = SumRows<S>;
  launch(parts, divided_up(sums.numel(), Body::COLUMNS), shared_size<double>(Body::THREADS),
         Body{data<S>(parts), mutable_data<S>(sums), parts.size(0), sums.numel()});
  return sums;
}

}  // namespace mixfast
