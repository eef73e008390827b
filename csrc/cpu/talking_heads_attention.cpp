// talking_heads_attention and its backward pass on the CPU; the mathematics is in
// kernels/mixfast_kernels/talking_heads_attention.py.
//
// Floor: arithmetic. Forward two products of N x N x e for each head, backward five (the logits are computed again rather than
// kept: B h N N numbers), and the mixing of heads: h multiply-adds for each of two, and in the backward pass six, matrices of
// logits. 64 samples of 64 tokens, 4 heads of 48: 0.2 GFLOP forward, 0.5 backward. A tile of rows, all heads at once, stays in a
// core's cache with the sample's keys and values, as padded float matrices.
//
// Deterministic, also across thread counts: tasks are cut by the sizes alone and their sums added in their order.

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/buffer.h"
#include "common/parallel.h"
#include "cpu/talking_heads_attention_arguments.h"

#define MIXFAST_KERNEL "cpu/talking_heads_attention_kernel.h"
#include "common/each_isa.h"

namespace mixfast {
namespace {

// Enough for many threads; more would pack the same keys again and hold more sums.
constexpr int64_t TASKS = 16;

void check_arguments(const Tensor& qkv, const Tensor& pre_weight, const Tensor& post_weight, const Tensor& post_bias) {
  STD_TORCH_CHECK(qkv.dim() == 5 && qkv.size(2) == 3, "qkv must be [B, N, 3, h, e]");
  STD_TORCH_CHECK(qkv.size(1) > 0 && qkv.size(3) > 0 && qkv.size(4) > 0, "qkv must have a position, a head and a channel");
  const int64_t heads = qkv.size(3);
  const std::vector<int64_t> square{heads, heads};
  STD_TORCH_CHECK(sizes_of(pre_weight) == square, "pre_weight must be [h, h]");
  STD_TORCH_CHECK(sizes_of(post_weight) == square, "post_weight must be [h, h]");
  STD_TORCH_CHECK(sizes_of(post_bias) == std::vector<int64_t>{heads}, "post_bias must be [h]");
}

Sizes sizes_for(const Tensor& qkv) {
  const int64_t batch = qkv.size(0), count = qkv.size(1), tiles = (count + TILE_ROWS - 1) / TILE_ROWS;
  const int64_t chunks = std::clamp<int64_t>(TASKS / std::max<int64_t>(batch, 1), 1, tiles);
  return {batch, count, qkv.size(3), qkv.size(4), chunks};
}

Task task_of(const Sizes& sizes, int64_t number) {
  const int64_t tiles = (sizes.count + TILE_ROWS - 1) / TILE_ROWS, chunk = number % sizes.chunks;
  const auto row = [&](int64_t k) { return std::min(tiles * k / sizes.chunks * TILE_ROWS, sizes.count); };
  return {number / sizes.chunks, row(chunk), row(chunk + 1)};
}

// What a task's arithmetic is worth in bytes moved.
int64_t bytes_each(const Sizes& sizes) { return sizes.count * sizes.count * sizes.heads * sizes.width / sizes.chunks; }

// Calls f(number, memory) for every task, with `count` numbers of scratch memory, zeros at first: rows that fill up a block of rows
// are computed with and never used, and must not hold numbers that take long.
template <class S, class F>
void for_each_task(const Sizes& sizes, int64_t count, const F& f) {
  parallel_for(sizes.batch * sizes.chunks, bytes_each(sizes), [&](int64_t begin, int64_t end) {
    const Buffer<S> memory = make_buffer<S>(count);
    std::fill_n(memory.get(), count, S(0));
    for (int64_t number = begin; number < end; ++number) f(number, memory.get());
  });
}

// Queries, keys or values (0, 1, 2) of qkv [B, N, 3, h, e].
template <class Pointer>
HeadRows<Pointer> part_of(const Tensor& qkv, Pointer values, int64_t part) {
  return {values + part * qkv.stride(2), qkv.stride(0), qkv.stride(1), qkv.stride(3)};
}

std::tuple<Tensor, Tensor> talking_heads_attention(Tensor qkv, Tensor pre_weight, Tensor /*pre_bias*/, Tensor post_weight,
                                                   Tensor post_bias, double scale) {
  check_arguments(qkv, pre_weight, post_weight, post_bias);
  qkv = with_dense_channels(qkv);
  const Sizes sizes = sizes_for(qkv);
  return call_for_float(qkv.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const std::vector<S> before = floats_of<S>(pre_weight), after = floats_of<S>(post_weight), bias = floats_of<S>(post_bias);
    const Tensor out = empty({sizes.batch, sizes.count, sizes.heads, sizes.width}, qkv.scalar_type());
    const Tensor logsumexp = empty({sizes.batch, sizes.heads, sizes.count}, sum_dtype(qkv.scalar_type()));
    const T* values = data<T>(qkv);
    const ForwardArguments<T> arguments{sizes,
                                        part_of(qkv, values, 0),
                                        part_of(qkv, values, 1),
                                        part_of(qkv, values, 2),
                                        {before.data(), after.data(), bias.data()},
                                        S(scale),
                                        mutable_data<T>(out),
                                        mutable_data<S>(logsumexp)};
    for_each_task<S>(sizes, arguments.scratch(), [&](int64_t number, S* memory) {
      MIXFAST_CALL(forward<T>, arguments, task_of(sizes, number), memory);
    });
    return std::make_tuple(out, logsumexp);
  });
}

// A gradient of a parameter: part `offset...` of all tasks' sums, added in their order.
Tensor parameter_gradient(const std::vector<double>& sums, int64_t each, int64_t offset, const Tensor& parameter) {
  std::vector<double> total(parameter.numel());
  for (size_t task = 0; task < sums.size(); task += each) {
    for (size_t i = 0; i < total.size(); ++i) total[i] += sums[task + offset + i];
  }
  const Tensor gradient = empty(sizes_of(parameter), ScalarType::Double);
  std::copy(total.begin(), total.end(), mutable_data<double>(gradient));
  return as_contiguous_in(gradient, parameter.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> talking_heads_attention_backward(Tensor grad, Tensor qkv, Tensor logsumexp,
                                                                            Tensor pre_weight, Tensor post_weight,
                                                                            Tensor post_bias, double scale) {
  check_arguments(qkv, pre_weight, post_weight, post_bias);
  const Sizes sizes = sizes_for(qkv);
  const std::vector<int64_t> result_sizes{sizes.batch, sizes.count, sizes.heads, sizes.width};
  const std::vector<int64_t> row_sizes{sizes.batch, sizes.heads, sizes.count};
  STD_TORCH_CHECK(sizes_of(grad) == result_sizes && grad.scalar_type() == qkv.scalar_type(), "grad must be like the result");
  STD_TORCH_CHECK(sizes_of(logsumexp) == row_sizes, "logsumexp must be [B, h, N]");
  qkv = with_dense_channels(qkv);
  grad = with_dense_channels(grad);
  return call_for_float(qkv.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const std::vector<S> before = floats_of<S>(pre_weight), after = floats_of<S>(post_weight), bias = floats_of<S>(post_bias);
    const Tensor normalisers = as_contiguous_in(logsumexp, sum_dtype(qkv.scalar_type()));
    const Tensor grad_qkv = empty(sizes_of(qkv), qkv.scalar_type());
    const T* values = data<T>(qkv);
    T* grad_values = mutable_data<T>(grad_qkv);
    const BackwardArguments<T> arguments{sizes,
                                         part_of(qkv, values, 0),
                                         part_of(qkv, values, 1),
                                         part_of(qkv, values, 2),
                                         {data<T>(grad), grad.stride(0), grad.stride(1), grad.stride(2)},
                                         {before.data(), after.data(), bias.data()},
                                         S(scale),
                                         data<S>(normalisers),
                                         part_of(grad_qkv, grad_values, 0),
                                         part_of(grad_qkv, grad_values, 1),
                                         part_of(grad_qkv, grad_values, 2)};
    const int64_t tasks = sizes.batch * sizes.chunks, kept = sizes.chunks > 1 ? tasks * arguments.sums() : 0;
    const Buffer<S> sums_of_tasks = make_buffer<S>(kept);
    std::vector<double> parameters(tasks * arguments.parameters());
    for_each_task<S>(sizes, arguments.scratch() + (kept ? 0 : arguments.sums()), [&](int64_t number, S* memory) {
      S* const sums = kept ? sums_of_tasks.get() + number * arguments.sums() : memory + arguments.scratch();
      const Task task = task_of(sizes, number);
      MIXFAST_CALL(backward<T>, arguments, task, memory, sums, parameters.data() + number * arguments.parameters());
      if (!kept) MIXFAST_CALL(store_sums<T>, arguments, task.sample, sums);
    });
    if (kept) {
      parallel_for(sizes.batch, sizes.chunks * arguments.sums() * int64_t(sizeof(S)), [&](int64_t begin, int64_t end) {
        for (int64_t sample = begin; sample < end; ++sample) {
          S* const sums = sums_of_tasks.get() + sample * sizes.chunks * arguments.sums();
          for (int64_t i = arguments.sums(); i < sizes.chunks * arguments.sums(); ++i) sums[i % arguments.sums()] += sums[i];
          MIXFAST_CALL(store_sums<T>, arguments, sample, sums);
        }
      });
    }
    const int64_t each = arguments.parameters(), square = sizes.heads * sizes.heads;
    return std::make_tuple(grad_qkv, parameter_gradient(parameters, each, 0, pre_weight),
                           parameter_gradient(parameters, each, square, post_weight),
                           parameter_gradient(parameters, each, 2 * square, post_bias));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) {
  m.impl("talking_heads_attention", TORCH_BOX(&talking_heads_attention));
  m.impl("talking_heads_attention_backward", TORCH_BOX(&talking_heads_attention_backward));
}

}  // namespace mixfast
