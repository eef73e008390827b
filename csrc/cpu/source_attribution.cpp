// source_attribution and its backward pass on the CPU; the mathematics is in kernels/mixfast_kernels/source_attribution.py.
//
// Floor, embedding: forward reads the tokens and writes the result once; backward reads the gradient once (the gradient of the
// tokens is the gradient itself). Encoding: one d x d product for a token that shows one source, not M, and the tokens moved once:
// they are gathered source by source into chunks that stay in a core's cache, multiplied there by torch's own library, and
// scattered with residual and bias added. 64 x 64 tokens of 384 floats: 1.2 GFLOP forward, 2.4 backward; 12.6 MB forward, 19
// backward.
//
// float16 and bfloat16 are multiplied as float32: exact products, and several times faster than the library's own low-precision
// product on processors without instructions for it.
//
// Deterministic for a given number of threads; the embedding also across thread counts.

#include "common/coverage.h"
#include "common/streaming.h"
#include "cpu/source_attribution_arguments.h"

#define MIXFAST_KERNEL "cpu/source_attribution_kernel.h"
#include "common/each_isa.h"
#include "cpu/source_attribution_embedding.h"
#include "cpu/source_attribution_encoding.h"

namespace mixfast {
namespace {

void check_arguments(const Tensor& tokens, int64_t sources, const Tensor& bias, const OptionalTensor& weight,
                     const std::vector<int64_t>& grid) {
  STD_TORCH_CHECK(tokens.dim() == 3, "tokens must be [B, N, d], got ", tokens.dim(), " dimensions");
  const int64_t width = tokens.size(2);
  STD_TORCH_CHECK(grid[0] * grid[1] == tokens.size(1), "grid must have N = ", tokens.size(1), " positions");
  STD_TORCH_CHECK(sources > 0, "inside must be [B, M] with M at least 1");
  STD_TORCH_CHECK(sizes_of(bias) == (std::vector<int64_t>{sources, width}), "bias must be [M, d]");
  STD_TORCH_CHECK(!weight || sizes_of(*weight) == (std::vector<int64_t>{sources, width, width}), "weight must be [M, d, d]");
}

Tensor source_attribution(Tensor tokens, Tensor inside, Tensor outside, OptionalTensor box, OptionalTensor bitmap, Tensor bias,
                          OptionalTensor weight, std::vector<int64_t> grid) {
  check_zone(inside, outside, box, bitmap, tokens.size(0), grid);
  check_arguments(tokens, inside.size(1), bias, weight, grid);
  tokens = with_dense_samples(tokens);
  return call_for_float(tokens.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Zone<sum_t<T>> zone(inside, outside, box, bitmap, grid[0], grid[1]);
    return weight ? encoded<T>(tokens, zone, bias, *weight) : embedded<T>(tokens, zone, bias);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> source_attribution_backward(Tensor grad, OptionalTensor tokens, Tensor inside,
                                                                               Tensor outside, OptionalTensor box,
                                                                               OptionalTensor bitmap, Tensor bias,
                                                                               OptionalTensor weight, std::vector<int64_t> grid,
                                                                               bool zones) {
  check_zone(inside, outside, box, bitmap, grad.size(0), grid);
  check_arguments(grad, inside.size(1), bias, weight, grid);
  STD_TORCH_CHECK(!weight || (tokens && sizes_of(*tokens) == sizes_of(grad) && tokens->scalar_type() == grad.scalar_type()),
                  "tokens must be given with weight, and be like grad");
  grad = with_dense_samples(grad);
  return call_for_float(grad.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Zone<sum_t<T>> zone(inside, outside, box, bitmap, grid[0], grid[1]);
    const Gradients result = weight ? encoded_backward<T>(grad, with_dense_samples(*tokens), zone, inside, bias, *weight, zones)
                                    : embedded_backward<T>(grad, zone, inside, bias, zones);
    return std::make_tuple(result.tokens, as_contiguous_in(result.inside, inside.scalar_type()),
                           as_contiguous_in(result.outside, outside.scalar_type()),
                           as_contiguous_in(result.bias, bias.scalar_type()),
                           as_contiguous_in(result.weight, weight ? weight->scalar_type() : grad.scalar_type()));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) {
  m.impl("source_attribution", TORCH_BOX(&source_attribution));
  m.impl("source_attribution_backward", TORCH_BOX(&source_attribution_backward));
}

}  // namespace mixfast
