// mixed_cross_entropy and its backward pass on the CPU; the mathematics is in
// kernels/mixfast_kernels/mixed_cross_entropy.py.
//
// Floor: forward reads the logits once; backward reads them once and writes their gradient once. A row of logits (one
// head of one sample) is read from memory once and from the first cache after that. Arithmetic: one exp a logit in each
// pass, about 20 vector instructions for 16 floats, which AVX-512 does faster than memory delivers.
//
// Deterministic, also across thread counts: a row is summed in one fixed order, and the rows' losses are added one
// after another.

#include <cmath>
#include <limits>

#include "common/parallel.h"
#include "common/tensors.h"

namespace mixfast {
namespace {

// Rows are (sample, head) pairs: row r is head r % heads of sample r / heads. S: the type that sums are taken in.
template <class T>
struct LossArguments {
  using S = sum_t<T>;
  const T* logits;
  int64_t sample_stride, head_stride, heads, classes;
  const int64_t* target;
  const int64_t* other;  // null without second labels
  const S* share;        // null without second labels
  S smoothing;

  const T* row(int64_t r) const { return logits + (r / heads) * sample_stride + (r % heads) * head_stride; }
};

template <class T>
struct LossGradients {
  using S = sum_t<T>;
  const S* normaliser;
  const S* scale;  // d loss / d (head's loss)
  T* logits;       // contiguous
  S* loss;         // each head's loss: the gradient of its weight, before the factor
  S* gap;          // logit of `other` less logit of `target`; null without second labels
};

}  // namespace
}  // namespace mixfast

#define MIXFAST_KERNEL "cpu/mixed_cross_entropy_kernel.h"
#include "common/each_isa.h"

namespace mixfast {
namespace {

constexpr int64_t EXP_BYTES = 16;  // one exp takes about as long as moving this much

// Logits whose classes lie side by side; rows may be anywhere, so heads that were computed one after another need no
// copy.
Tensor with_dense_rows(const Tensor& logits) {
  return logits.size(2) <= 1 || logits.stride(2) == 1 ? logits : as_contiguous(logits);
}

// The small arguments, copied: a few numbers for each row of logits.
template <class S>
struct Labels {
  std::vector<int64_t> target, other;
  std::vector<S> weight, share;
  bool two;  // each head has a second label

  Labels(const Tensor& target_BM, const Tensor& weight_BM, const OptionalTensor& other_BM, const OptionalTensor& share_BM,
         int64_t classes)
      : target(integers_of(target_BM)), weight(floats_of<S>(weight_BM)), two(other_BM && share_BM) {
    check_indices(target, classes, "target");
    if (!two) return;
    other = integers_of(*other_BM);
    share = floats_of<S>(*share_BM);
    check_indices(other, classes, "other");
  }
};

template <class T>
LossArguments<T> arguments_of(const Tensor& logits, const Labels<sum_t<T>>& labels, double smoothing) {
  return {data<T>(logits),
          logits.stride(0),
          logits.stride(1),
          logits.size(1),
          logits.size(2),
          labels.target.data(),
          labels.two ? labels.other.data() : nullptr,
          labels.two ? labels.share.data() : nullptr,
          sum_t<T>(smoothing)};
}

template <class S>
Tensor scalar(S value, ScalarType dtype) {
  const Tensor result = empty({}, dtype);
  *mutable_data<S>(result) = value;
  return result;
}

std::tuple<Tensor, Tensor> mixed_cross_entropy(Tensor logits, Tensor target, Tensor weight, OptionalTensor other,
                                               OptionalTensor share, double smoothing) {
  const int64_t batch = logits.size(0), heads = logits.size(1), classes = logits.size(2), rows = batch * heads;
  logits = with_dense_rows(logits);
  return call_for_float(logits.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const Labels<S> labels(target, weight, other, share, classes);
    const LossArguments<T> arguments = arguments_of<T>(logits, labels, smoothing);
    const ScalarType dtype = sum_dtype(logits.scalar_type());
    const Tensor normaliser = empty({batch, heads}, dtype);
    std::vector<S> losses(rows);
    S* normaliser_of = mutable_data<S>(normaliser);
    parallel_for(rows, classes * EXP_BYTES, [&](int64_t begin, int64_t end) {
      MIXFAST_CALL(forward<T>, arguments, normaliser_of, losses.data(), begin, end);
    });
    double total = 0;
    for (int64_t r = 0; r < rows; ++r) total += double(labels.weight[r]) * losses[r];
    return std::make_tuple(scalar<S>(S(total / std::max<int64_t>(batch, 1)), dtype), normaliser);
  });
}

std::tuple<Tensor, Tensor, Tensor> mixed_cross_entropy_backward(Tensor grad, Tensor logits, Tensor normaliser, Tensor target,
                                                                Tensor weight, OptionalTensor other, OptionalTensor share,
                                                                double smoothing) {
  const int64_t batch = logits.size(0), heads = logits.size(1), classes = logits.size(2), rows = batch * heads;
  logits = with_dense_rows(logits);
  return call_for_float(logits.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const Labels<S> labels(target, weight, other, share, classes);
    const LossArguments<T> arguments = arguments_of<T>(logits, labels, smoothing);
    const ScalarType dtype = sum_dtype(logits.scalar_type());
    const S factor = floats_of<S>(grad)[0] / S(std::max<int64_t>(batch, 1));
    const std::vector<S> normalisers = floats_of<S>(normaliser);
    std::vector<S> scale(labels.weight);
    for (S& value : scale) value *= factor;

    const Tensor grad_logits = empty(sizes_of(logits), logits.scalar_type());
    const Tensor grad_weight = empty({batch, heads}, dtype);
    const bool two = labels.two;
    const Tensor grad_share =
        empty(two ? std::vector<int64_t>{batch, heads} : std::vector<int64_t>{0}, two ? dtype : logits.scalar_type());
    S* loss = mutable_data<S>(grad_weight);
    S* gap = two ? mutable_data<S>(grad_share) : nullptr;
    const LossGradients<T> out{normalisers.data(), scale.data(), mutable_data<T>(grad_logits), loss, gap};
    parallel_for(rows, classes * EXP_BYTES,
                 [&](int64_t begin, int64_t end) { MIXFAST_CALL(backward<T>, arguments, out, begin, end); });
    for (int64_t r = 0; r < rows; ++r) loss[r] *= factor;
    for (int64_t r = 0; two && r < rows; ++r) gap[r] *= scale[r] * (1 - arguments.smoothing);
    return std::make_tuple(grad_logits, as_contiguous_in(grad_weight, weight.scalar_type()),
                           two ? as_contiguous_in(grad_share, share->scalar_type()) : grad_share);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) {
  m.impl("mixed_cross_entropy", TORCH_BOX(&mixed_cross_entropy));
  m.impl("mixed_cross_entropy_backward", TORCH_BOX(&mixed_cross_entropy_backward));
}

}  // namespace mixfast
