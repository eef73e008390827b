// gated_positional_attention and its backward pass on the CPU; the mathematics is in
// kernels/mixfast_kernels/gated_positional_attention.py.
//
// Floor: two products of 2 N^2 e operations forward and five backward for each head of each sample, and an exp an element of an N x N
// matrix in each pass; the tokens are read and written once. 64 samples of 64 tokens, 12 heads of 32: 0.4 GFLOP forward, 1.0 backward;
// 25 MB forward, 44 backward. The products are done here, not by a library: matrices this small are over before a library has packed
// them, and between two products the rows of a block are in the first cache.
//
// float16 and bfloat16 are widened where they are packed and multiplied as float32.
//
// Deterministic, also across thread counts: a head of a sample is one thread's, and sums over the batch are taken in groups of samples
// whose number depends on the shape alone, then over the groups in order.

#include <cmath>
#include <limits>

#include "common/parallel.h"
#include "common/streaming.h"
#include "cpu/gated_positional_attention_arguments.h"

#define MIXFAST_KERNEL "cpu/gated_positional_attention_kernel.h"
#include "common/each_isa.h"

namespace mixfast {
namespace {

// Of a block of queries' columns of one N x N matrix: in the first cache, with what it is multiplied by.
constexpr int64_t BLOCK_BYTES = 16 << 10;
// Backward's pieces of work, at least, where the batch allows it: enough for the threads of a large machine.
constexpr int64_t PIECES = 48;

Sizes checked_sizes(const Tensor& qkv, const Tensor& positional, const Tensor& gate) {
  STD_TORCH_CHECK(qkv.dim() == 5 && qkv.size(2) == 3, "qkv must be [B, N, 3, h, e]");
  const int64_t count = qkv.size(1), heads = qkv.size(3), width = qkv.size(4);
  STD_TORCH_CHECK(count > 0 && heads > 0 && width > 0, "qkv must have at least one token, head and channel a head");
  STD_TORCH_CHECK(sizes_of(positional) == (std::vector<int64_t>{heads, count, count}), "positional must be [h, N, N]");
  STD_TORCH_CHECK(sizes_of(gate) == (std::vector<int64_t>{heads}), "gate must be [h]");
  const int64_t most = BLOCK_BYTES / (padded(count) * element_size(sum_dtype(qkv.scalar_type()))) / STEP * STEP;
  return {qkv.size(0), count, heads, width, std::clamp(most, 2 * STEP, padded(count))};
}

template <class Pointer>
HeadRows<Pointer> head_rows(const Tensor& tokens_BNhe, Pointer values) {
  return {values, tokens_BNhe.stride(0), tokens_BNhe.stride(1), tokens_BNhe.stride(2)};
}

template <class Pointer>
PackedRows<Pointer> packed_rows(const Tensor& qkv, Pointer values) {
  const auto part = [&](int64_t number) {
    return HeadRows<Pointer>{values + number * qkv.stride(2), qkv.stride(0), qkv.stride(1), qkv.stride(3)};
  };
  return {part(0), part(1), part(2)};
}

// What products of N^2 e are worth in memory traffic.
int64_t bytes_worth(const Sizes& sizes, int64_t products) { return products * sizes.count * sizes.count * sizes.width / 8; }

// Rows that do not fill cache lines would be written past the caches in parts.
bool streams(const Tensor& rows) {
  const int64_t bytes = element_size(rows.scalar_type()), width = rows.size(rows.dim() - 1);
  return rows.numel() * bytes >= STREAM_FROM_BYTES && width * bytes % 64 == 0;
}

// [h, N, padded(N)], the last two dimensions exchanged.
template <class S>
Tensor transposed(const Tensor& positional, const Sizes& sizes, ScalarType sums) {
  const Tensor dense = as_contiguous_in(positional, sums);
  const Tensor result = empty({sizes.heads, sizes.count, sizes.column_step()}, sums);
  MIXFAST_CALL(transpose_positional<S>, data<S>(dense), sizes, mutable_data<S>(result));
  return result;
}

std::tuple<Tensor, Tensor> gated_positional_attention(Tensor qkv, Tensor positional, Tensor gate, double scale) {
  const Sizes sizes = checked_sizes(qkv, positional, gate);
  qkv = with_dense_channels(qkv);
  return call_for_float(qkv.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const ScalarType sums = sum_dtype(qkv.scalar_type());
    const Tensor places = transposed<S>(positional, sizes, sums);
    const std::vector<S> gates = floats_of<S>(gate);
    const Tensor result = empty({sizes.batch, sizes.count, sizes.heads, sizes.width}, qkv.scalar_type());
    const Tensor logsumexp = empty({sizes.batch, sizes.heads, sizes.count}, sums);
    const Inputs<T> in{sizes, packed_rows(qkv, data<T>(qkv)), data<S>(places), gates.data(), S(scale)};
    const Result<T> out{head_rows(result, mutable_data<T>(result)), mutable_data<S>(logsumexp), streams(result)};
    parallel_for(sizes.batch * sizes.heads, bytes_worth(sizes, 2),
                 [&](int64_t begin, int64_t end) { MIXFAST_CALL(forward<T>, in, out, begin, end); });
    return std::make_tuple(result, logsumexp);
  });
}

std::tuple<Tensor, Tensor, Tensor> gated_positional_attention_backward(Tensor grad, Tensor qkv, Tensor positional, Tensor gate,
                                                                       Tensor logsumexp, double scale) {
  const Sizes sizes = checked_sizes(qkv, positional, gate);
  const int64_t batch = sizes.batch, N = sizes.count, heads = sizes.heads;
  STD_TORCH_CHECK(sizes_of(grad) == (std::vector<int64_t>{batch, N, heads, sizes.width}) && grad.scalar_type() == qkv.scalar_type(),
                  "grad must be [B, N, h, e] in the dtype of qkv");
  STD_TORCH_CHECK(sizes_of(logsumexp) == (std::vector<int64_t>{batch, heads, N}), "logsumexp must be [B, h, N]");
  qkv = with_dense_channels(qkv);
  grad = with_dense_channels(grad);
  return call_for_float(qkv.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const ScalarType sums = sum_dtype(qkv.scalar_type());
    const Tensor places = transposed<S>(positional, sizes, sums);
    logsumexp = as_contiguous_in(logsumexp, sums);
    const std::vector<S> gates = floats_of<S>(gate);
    const int64_t groups = std::min(batch, (PIECES + sizes.head_blocks() - 1) / sizes.head_blocks());
    const Tensor grad_qkv = empty(sizes_of(qkv), qkv.scalar_type());
    const Tensor grad_positional = empty({heads, N, N}, sums), grad_gate = empty({heads}, sums);
    const Tensor combined = empty({groups, heads, N, sizes.column_step()}, sums);
    std::vector<double> gate_parts(groups * heads);
    const Inputs<T> in{sizes, packed_rows(qkv, data<T>(qkv)), data<S>(places), gates.data(), S(scale)};
    const Gradients<T> out{head_rows(grad, data<T>(grad)),
                           data<S>(logsumexp),
                           packed_rows(grad_qkv, mutable_data<T>(grad_qkv)),
                           groups,
                           mutable_data<S>(combined),
                           gate_parts.data(),
                           streams(grad_qkv)};
    parallel_for(groups * sizes.head_blocks(), batch / std::max<int64_t>(groups, 1) * HEADS_AT_ONCE * bytes_worth(sizes, 5),
                 [&](int64_t begin, int64_t end) { MIXFAST_CALL(backward<T>, in, out, begin, end); });
    parallel_for(heads, (groups + 2) * N * N * int64_t(sizeof(S)), [&](int64_t begin, int64_t end) {
      MIXFAST_CALL(sum_groups<S>, out.combined, in.gate, sizes, groups, mutable_data<S>(grad_positional), begin, end);
    });
    for (int64_t head = 0; head < heads; ++head) {
      double sum = 0;
      for (int64_t group = 0; group < groups; ++group) sum += gate_parts[group * heads + head];
      mutable_data<S>(grad_gate)[head] = S(sum);
    }
    return std::make_tuple(grad_qkv, as_contiguous_in(grad_positional, positional.scalar_type()),
                           as_contiguous_in(grad_gate, gate.scalar_type()));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) {
  m.impl("gated_positional_attention", TORCH_BOX(&gated_positional_attention));
  m.impl("gated_positional_attention_backward", TORCH_BOX(&gated_positional_attention_backward));
}

}  // namespace mixfast
