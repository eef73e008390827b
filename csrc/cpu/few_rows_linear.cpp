// few_rows_linear on the CPU; what it is for stands in kernels/mixfast_kernels/few_rows_linear.py.
//
// Floor: the matrix is read once, 2.4 MB for 1536 x 384 floats. A tile of its rows meets all rows of x while it is in registers.
//
// Deterministic, also across thread counts: each result is one thread's sum, always in the same order.

#include "common/buffer.h"
#include "common/coverage.h"
#include "common/parallel.h"
#include "common/streaming.h"
#include "common/tensors.h"

namespace mixfast {
namespace {

constexpr int64_t MAX_ROWS = 8;
constexpr int64_t OUTPUTS = 4;  // of the matrix's rows: a result's sum waits for itself, so several are under way

template <class T>
struct LinearArguments {
  using S = sum_t<T>;
  const T* weight;  // [outputs, inputs]
  int64_t weight_step, outputs, inputs;
  const S* rows;  // [count, stride], zeros behind `inputs`
  int64_t count, stride;
  const S* bias;  // [outputs], or null
  T* result;      // [count, outputs]
};

}  // namespace
}  // namespace mixfast

#define MIXFAST_KERNEL "cpu/few_rows_linear_kernel.h"
#include "common/each_isa.h"

namespace mixfast {
namespace {

// x as `count` rows of S, each as long as a whole number of the longest vectors.
template <class S>
Buffer<S> padded_rows(const Tensor& x, int64_t count, int64_t inputs, int64_t stride) {
  Buffer<S> rows = make_buffer<S>(count * stride);
  std::fill_n(rows.get(), count * stride, S(0));
  const std::vector<S> values = floats_of<S>(x);
  for (int64_t r = 0; r < count; ++r) std::copy_n(values.data() + r * inputs, inputs, rows.get() + r * stride);
  return rows;
}

Tensor few_rows_linear(Tensor x, Tensor weight, OptionalTensor bias) {
  STD_TORCH_CHECK(weight.dim() == 2, "weight must be [N, K], got ", weight.dim(), " dimensions");
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  std::vector<int64_t> sizes = sizes_of(x);
  STD_TORCH_CHECK(!sizes.empty() && sizes.back() == inputs, "x must be [..., K] with K = ", inputs);
  STD_TORCH_CHECK(x.scalar_type() == weight.scalar_type(), "x must have the dtype of weight");
  sizes.pop_back();
  const int64_t count = std::accumulate(sizes.begin(), sizes.end(), int64_t(1), std::multiplies<int64_t>());
  STD_TORCH_CHECK(count <= MAX_ROWS, "x must have at most ", MAX_ROWS, " rows, got ", count);
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == outputs), "bias must be [N] with N = ", outputs);
  sizes.push_back(outputs);
  weight = with_dense_channels(weight);
  const Tensor result = empty(sizes, x.scalar_type());
  call_for_float(x.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    constexpr int64_t LONGEST = 64 / sizeof(S);
    const int64_t stride = (inputs + LONGEST - 1) / LONGEST * LONGEST;
    const Buffer<S> rows = padded_rows<S>(x, count, inputs, stride);
    const std::vector<S> added = bias ? floats_of<S>(*bias) : std::vector<S>();
    const LinearArguments<T> arguments{data<T>(weight),      weight.stride(0), outputs, inputs, rows.get(), count, stride,
                                       bias ? added.data() : nullptr, mutable_data<T>(result)};
    const int64_t tiles = (outputs + OUTPUTS - 1) / OUTPUTS;
    parallel_for(tiles, OUTPUTS * inputs * int64_t(sizeof(T)),
                 [&](int64_t begin, int64_t end) { MIXFAST_CALL(multiply_tiles<T>, arguments, begin, end); });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) { m.impl("few_rows_linear", TORCH_BOX(&few_rows_linear)); }

}  // namespace mixfast
