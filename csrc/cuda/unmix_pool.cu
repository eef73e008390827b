// unmix_pool and its backward pass on the GPU; the mathematics is in kernels/mixfast_kernels/unmix_pool.py.
//
// Floor: forward reads the features once; backward writes their gradient once, and reads the features only for the gradients
// of the affine or of the mix. All M inputs come from two sums a channel, inside and outside the zone: 2 multiply-adds an
// element. 512 x 640 x 8 x 8 bfloat16: 42 MB each way.
//
// Deterministic: no atomics. A block sums whole samples of its channels; sums over samples are a second, small kernel.

#include "cuda/sum_rows.h"
#include "cuda/unmix_pool_backward_bodies.h"

namespace mixfast {
namespace {

void check_arguments(const Tensor& features, const Tensor& inside, const Tensor& outside, const OptionalTensor& box,
                     const OptionalTensor& bitmap, const OptionalTensor& scale, const OptionalTensor& shift, int64_t channels,
                     const std::vector<int64_t>& grid) {
  STD_TORCH_CHECK(features.dim() == 4, "features must be [B, C, h, w], got ", features.dim(), " dimensions");
  check_zone(inside, outside, box, bitmap, features.size(0), grid);
  const int64_t count = features.size(1);
  STD_TORCH_CHECK(channels >= 0 && channels <= count, "channels must be between 0 and ", count, ", got ", channels);
  STD_TORCH_CHECK(scale.has_value() == shift.has_value(), "scale and shift must be given together");
  for (const OptionalTensor* value : {&scale, &shift}) {
    STD_TORCH_CHECK(!*value || sizes_of(**value) == std::vector<int64_t>{count}, "scale and shift must be [C] with C = ", count);
  }
  check_same_device(features, {&inside, &outside});
  check_same_device(features, {&box, &bitmap, &scale, &shift});
}

// The arguments as kernels read them, and the memory that they are in.
template <class T>
class Pool {
 public:
  using S = sum_t<T>;
  PoolView<T> view{};
  bool channels_last;
  int64_t batch;

  Pool(const Tensor& features, const Tensor& inside, const Tensor& outside, const OptionalTensor& box, const OptionalTensor& bitmap,
       const OptionalTensor& scale, const OptionalTensor& shift, int64_t channels, const std::vector<int64_t>& grid)
      : batch(features.size(0)),
        features_(is_channels_last(features) ? features : as_contiguous(features)),
        zone_(inside, outside, box, bitmap, grid[0], grid[1]) {
    view.features = data<T>(features_);
    view.channels = checked_int(features.size(1), "the number of channels");
    view.height = checked_int(features.size(2), "the height of the features");
    view.width = checked_int(features.size(3), "the width of the features");
    const int64_t positions = checked_int(features.size(2) * features.size(3), "the number of positions");
    // A tensor may be both, with one channel or one position: then what suits the longer side.
    channels_last = !features_.is_contiguous() || positions == 1;
    view.unmixed = int(channels);
    view.scale = optional_data<S>(scale, scale_);
    view.shift = optional_data<S>(shift, shift_);
    view.zone = zone_.view();
    view.inputs = view.zone.inputs;
    view.aligned = is_aligned(view.features) && (channels_last ? view.channels : positions) % VECTOR<T> == 0;
    if (bitmap && (view.height != grid[0] || view.width != grid[1])) resample();
  }

  // Launches one of two bodies for each sample and block of channels; make(body) fills in the rest of it.
  template <class ChannelsLast, class Contiguous, class Make>
  void launch_for_layout(const Make& make) const {
    if (channels_last) {
      ChannelsLast body{};
      body.lanes = Lanes<T>::of(view.channels);
      body.blocks_per_sample = int(body.lanes.blocks(view.channels));
      launch_filled(body, make);
    } else {
      Contiguous body{};
      body.blocks_per_sample = int(divided_up(view.channels, Tile::ROWS));
      launch_filled(body, make);
    }
  }

 private:
  Tensor features_;
  ZoneArguments<S> zone_;
  OptionalTensor scale_, shift_, resampled_;

  template <class Body, class Make>
  void launch_filled(Body& body, const Make& make) const {
    body.pool = view;
    make(body);
    launch(features_, batch * body.blocks_per_sample, Body::shared_bytes(), body);
  }

  void resample() {
    resampled_ = device_empty(features_, {batch, view.height, view.width}, dtype_of_sums<S>());
    const int64_t count = resampled_->numel();
    using Body = ResampleBitmap<S>;
    launch(features_, divided_up(count, Body::THREADS), 0,
           Body{view.zone, mutable_data<S>(*resampled_), count, view.height, view.width});
    view.resampled = data<S>(*resampled_);
  }
};

Tensor unmix_pool(Tensor features, Tensor inside, Tensor outside, OptionalTensor box, OptionalTensor bitmap, OptionalTensor scale,
                  OptionalTensor shift, int64_t channels, std::vector<int64_t> grid) {
  check_arguments(features, inside, outside, box, bitmap, scale, shift, channels, grid);
  const OnDeviceOf device(features);
  return call_for_device_float(features.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Pool<T> pool(features, inside, outside, box, bitmap, scale, shift, channels, grid);
    const Tensor pooled = device_empty(features, {pool.batch, pool.view.inputs, pool.view.channels}, features.scalar_type());
    pool.template launch_for_layout<PoolChannelsLast<T>, PoolContiguous<T>>(
        [&](auto& body) { body.pooled = mutable_data<T>(pooled); });
    return pooled;
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> unmix_pool_backward(Tensor grad, Tensor features, Tensor inside, Tensor outside,
                                                                       OptionalTensor box, OptionalTensor bitmap,
                                                                       OptionalTensor scale, OptionalTensor shift, int64_t channels,
                                                                       std::vector<int64_t> grid, bool zones) {
  check_arguments(features, inside, outside, box, bitmap, scale, shift, channels, grid);
  const std::vector<int64_t> pooled_sizes{features.size(0), inside.size(1), features.size(1)};
  STD_TORCH_CHECK(sizes_of(grad) == pooled_sizes, "grad must be [B, M, C]");
  check_same_device(features, {&grad});
  const OnDeviceOf device(features);
  return call_for_device_float(features.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const Pool<T> pool(features, inside, outside, box, bitmap, scale, shift, channels, grid);
    const ScalarType dtype = features.scalar_type(), sums_dtype = dtype_of_sums<S>();
    grad = as_contiguous_in(grad, dtype);
    const bool as_channels_last = is_channels_last(features) && !features.is_contiguous();
    const std::vector<int> order = as_channels_last ? std::vector<int>{0, 2, 3, 1} : std::vector<int>{0, 1, 2, 3};
    const Tensor grad_features = device_empty(features, sizes_of(features), dtype, order);

    const int64_t batch = pool.batch, count = pool.view.channels;
    const bool wanted[QUANTITIES] = {zones, zones, scale.has_value(), scale.has_value()};
    std::vector<Tensor> sums;
    for (const bool each : wanted) sums.push_back(device_empty(features, {each ? batch : 0, count}, sums_dtype));
    PoolGradients<T> grads{data<T>(grad), mutable_data<T>(grad_features), {}};
    for (int i = 0; i < QUANTITIES; ++i) grads.sums[i] = wanted[i] ? mutable_data<S>(sums[i]) : nullptr;
    pool.template launch_for_layout<PoolBackwardChannelsLast<T>, PoolBackwardContiguous<T>>(
        [&](auto& body) { body.grads = grads; });

    const std::vector<int64_t> zone_sizes = zones ? sizes_of(inside) : std::vector<int64_t>{0};
    const Tensor grad_inside = device_empty(features, zone_sizes, sums_dtype);
    const Tensor grad_outside = device_empty(features, zone_sizes, sums_dtype);
    if (zones) {
      using Body = ZoneGradients<T>;
      launch(features, inside.numel(), Body::shared_bytes(),
             Body{grads.pooled, grads.sums[COVERED], grads.sums[UNCOVERED], mutable_data<S>(grad_inside),
                  mutable_data<S>(grad_outside), pool.view.inputs, pool.view.channels, pool.view.unmixed,
                  pool.view.height * pool.view.width});
    }
    const auto affine = [&](Quantity quantity, const OptionalTensor& argument) {
      if (!argument) return device_empty(features, {0}, dtype);
      return as_contiguous_in(sum_rows<S>(sums[quantity], {count}), argument->scalar_type());
    };
    return std::make_tuple(grad_features, as_contiguous_in(grad_inside, inside.scalar_type()),
                           as_contiguous_in(grad_outside, outside.scalar_type()), affine(SCALE, scale), affine(SHIFT, shift));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, MIXFAST_KEY, m) {
  m.impl("unmix_pool", TORCH_BOX(&unmix_pool));
  m.impl("unmix_pool_backward", TORCH_BOX(&unmix_pool_backward));
}

}  // namespace mixfast
