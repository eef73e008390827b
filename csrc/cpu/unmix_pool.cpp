// unmix_pool and its backward pass on the CPU; the mathematics is in kernels/mixfast_kernels/unmix_pool.py.
//
// Floor: forward reads the features once; backward writes their gradient once, and reads the features only for the gradients of
// the affine or of the mix. All M inputs come from two sums a channel, inside and outside the zone: 2 multiply-adds an element,
// far below what memory delivers. 64 x 640 x 8 x 8 float32: 10.5 MB each way, about 1 ms for both on one core.
//
// Deterministic, also across thread counts: a sample is one thread's, and sums over samples are taken in their order.

#include <type_traits>

#include "common/buffer.h"
#include "common/coverage.h"
#include "common/streaming.h"
#include "common/tensors.h"

namespace mixfast {
namespace {

template <class T>
struct PoolArguments {
  using S = sum_t<T>;
  const T* features;  // [B, C, h, w], contiguous or channels-last
  const T* end;       // of all features
  bool channels_last;
  int64_t channels, positions, inputs, unmixed;
  const S* scale;  // [C] both, or null
  const S* shift;
};

// One sample's zone: shares of positions (zeros follow the last one), weights of inputs.
template <class S>
struct Shares {
  const S* covered;
  const S* uncovered;
  const S* inside;
  const S* outside;
};

template <class T>
struct PoolGradients {
  using S = sum_t<T>;
  const T* pooled;  // [B, M, C], given
  T* features;      // as the features lie
  S* inside;        // [B, M], or null where not wanted
  S* outside;
  S* scale;  // [B, C], zeros at first: each sample's share; or null
  S* shift;
  bool stream;
};

}  // namespace
}  // namespace mixfast

#define MIXFAST_KERNEL "cpu/unmix_pool_kernel.h"
#include "common/each_isa.h"

namespace mixfast {
namespace {

void check_arguments(const Tensor& features, const OptionalTensor& scale, const OptionalTensor& shift, int64_t channels) {
  STD_TORCH_CHECK(features.dim() == 4, "features must be [B, C, h, w], got ", features.dim(), " dimensions");
  const int64_t count = features.size(1);
  STD_TORCH_CHECK(channels >= 0 && channels <= count, "channels must be between 0 and ", count, ", got ", channels);
  STD_TORCH_CHECK(scale.has_value() == shift.has_value(), "scale and shift must be given together");
  for (const OptionalTensor* value : {&scale, &shift}) {
    STD_TORCH_CHECK(!*value || sizes_of(**value) == std::vector<int64_t>{count}, "scale and shift must be [C] with C = ", count);
  }
}

// What every pass needs: the arguments in plain memory, and the mix on the features' grid.
template <class T>
class Pool {
 public:
  using S = sum_t<T>;
  const Zone<S> zone;
  const Coverage<S> coverage;
  PoolArguments<T> arguments;

  Pool(const Tensor& features, const Tensor& inside, const Tensor& outside, const OptionalTensor& box, const OptionalTensor& bitmap,
       const OptionalTensor& scale, const OptionalTensor& shift, int64_t channels, const std::vector<int64_t>& grid)
      : zone(inside, outside, box, bitmap, grid[0], grid[1]),
        coverage(zone, features.size(2), features.size(3)),
        features_(is_channels_last(features) ? features : as_contiguous(features)) {
    if (scale) {
      scale_ = floats_of<S>(*scale);
      shift_ = floats_of<S>(*shift);
    }
    const T* values = data<T>(features_);
    // A tensor may be both, with one channel or one position: then the loops over the longer side.
    const bool both = features_.is_contiguous();
    arguments = {values,
                 values + features_.numel(),
                 !both || coverage.positions() == 1,
                 features.size(1),
                 coverage.positions(),
                 zone.inputs,
                 channels,
                 scale ? scale_.data() : nullptr,
                 scale ? shift_.data() : nullptr};
  }

  // One sample's zone, from its shares of positions.
  Shares<S> shares(int64_t b, const S* covered, const S* uncovered) const {
    return {covered, uncovered, zone.inside_of(b), zone.outside_of(b)};
  }

  int64_t sample_bytes() const { return arguments.channels * arguments.positions * int64_t(sizeof(T)); }

 private:
  Tensor features_;
  std::vector<S> scale_, shift_;
};

Tensor unmix_pool(Tensor features, Tensor inside, Tensor outside, OptionalTensor box, OptionalTensor bitmap, OptionalTensor scale,
                  OptionalTensor shift, int64_t channels, std::vector<int64_t> grid) {
  check_arguments(features, scale, shift, channels);
  check_zone(inside, outside, box, bitmap, features.size(0), grid);
  return call_for_float(features.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const Pool<T> pooling(features, inside, outside, box, bitmap, scale, shift, channels, grid);
    const PoolArguments<T>& a = pooling.arguments;
    const Tensor pooled = empty({pooling.zone.batch, a.inputs, a.channels}, features.scalar_type());
    T* pooled_BMC = mutable_data<T>(pooled);
    pooling.coverage.for_each_sample(pooling.sample_bytes(), [&] {
      return [&, sums = make_buffer<S>(4 * a.channels)](int64_t b, const S* covered, const S* uncovered) {
        MIXFAST_CALL(pool<T>, a, b, pooling.shares(b, covered, uncovered), sums.get(), pooled_BMC + b * a.inputs * a.channels);
      };
    });
    return pooled;
  });
}

// [B, C] partial sums to the [C] gradient of an argument, one sample after another; empty where the argument is absent.
template <class S>
Tensor sum_of_samples(const std::vector<S>& parts_BC, int64_t channels, const OptionalTensor& argument, ScalarType absent) {
  if (!argument) return empty({0}, absent);
  const Tensor total = empty({channels}, ScalarType::Double);
  double* sums = mutable_data<double>(total);
  std::fill_n(sums, channels, 0.0);
  for (size_t start = 0; start < parts_BC.size(); start += channels) {
    for (int64_t c = 0; c < channels; ++c) sums[c] += parts_BC[start + c];
  }
  return as_contiguous_in(total, argument->scalar_type());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> unmix_pool_backward(Tensor grad, Tensor features, Tensor inside, Tensor outside,
                                                                       OptionalTensor box, OptionalTensor bitmap,
                                                                       OptionalTensor scale, OptionalTensor shift, int64_t channels,
                                                                       std::vector<int64_t> grid, bool zones) {
  check_arguments(features, scale, shift, channels);
  check_zone(inside, outside, box, bitmap, features.size(0), grid);
  return call_for_float(features.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const Pool<T> pooling(features, inside, outside, box, bitmap, scale, shift, channels, grid);
    const PoolArguments<T>& a = pooling.arguments;
    const int64_t batch = pooling.zone.batch;
    const ScalarType dtype = features.scalar_type(), sums = sum_dtype(dtype);

    STD_TORCH_CHECK(sizes_of(grad) == (std::vector<int64_t>{batch, a.inputs, a.channels}), "grad must be [B, M, C]");
    grad = as_contiguous_in(grad, dtype);
    const bool as_channels_last = is_channels_last(features) && !features.is_contiguous();
    const Tensor grad_features = (as_channels_last ? empty_channels_last : empty)(sizes_of(features), dtype);
    const std::vector<int64_t> zone_sizes = zones ? std::vector<int64_t>{batch, a.inputs} : std::vector<int64_t>{0};
    const Tensor grad_inside = empty(zone_sizes, sums), grad_outside = empty(zone_sizes, sums);
    std::vector<S> grad_scale(scale ? batch * a.channels : 0), grad_shift(grad_scale.size());
    const int64_t bytes = pooling.sample_bytes();
    const PoolGradients<T> gradients{data<T>(grad),
                                     mutable_data<T>(grad_features),
                                     zones ? mutable_data<S>(grad_inside) : nullptr,
                                     zones ? mutable_data<S>(grad_outside) : nullptr,
                                     grad_scale.data(),
                                     grad_shift.data(),
                                     batch * bytes >= STREAM_FROM_BYTES};
    pooling.coverage.for_each_sample(bytes, [&] {
      const int64_t row = a.channels_last ? a.channels : a.positions;
      return [&, rows = make_buffer<S>(4 * a.channels), tile = make_buffer<T>(tile_capacity(row))](int64_t b, const S* covered,
                                                                                                   const S* uncovered) {
        MIXFAST_CALL(pool_backward<T>, a, gradients, b, pooling.shares(b, covered, uncovered), rows.get(), tile.get());
      };
    });
    return std::make_tuple(
        grad_features, as_contiguous_in(grad_inside, inside.scalar_type()), as_contiguous_in(grad_outside, outside.scalar_type()),
        sum_of_samples(grad_scale, a.channels, scale, dtype), sum_of_samples(grad_shift, a.channels, shift, dtype));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) {
  m.impl("unmix_pool", TORCH_BOX(&unmix_pool));
  m.impl("unmix_pool_backward", TORCH_BOX(&unmix_pool_backward));
}

}  // namespace mixfast
