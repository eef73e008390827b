// augment on the GPU: gather, crop, flip, blend and normalise a uint8 batch; see kernels/mixfast_kernels/augment.py.
//
// Floor: one byte read for each visible channel of a pixel, one element written; a multiply-add a source and one for the
// statistics. 512 x 3 x 32 x 32 to bfloat16: 1.6 + 3.1 MB.
//
// A thread makes 16 bytes of the result: neighbours in memory are neighbours in the image, so that both sides are
// coalesced. Sources with weight 0 are not read. Images are read where they are, in any memory layout. Each element is
// computed by itself: the same bits every time. An index or crop out of range (values are not checked on the device) is
// moved to the nearest in range.

#include "cuda/device_zone.h"
#include "cuda/vectors.h"

namespace mixfast {
namespace {

// Statistics travel with the launch, so many channels at a time.
constexpr int CHANNELS_AT_A_TIME = 32;

template <class T>
struct AugmentBody {
  using S = sum_t<T>;
  static constexpr int THREADS = 256;

  const uint8_t* images;  // [U, c, H, W], strides in bytes
  int64_t stride_u, stride_c, stride_y, stride_x, unique;
  int image_height, image_width, pad;
  const int64_t* index;  // [B, sources]
  const int64_t* crop;   // [B, sources, 2]
  const uint8_t* flip;   // [B, sources], or null
  int sources;
  bool has_zone;  // without: one source, whole
  DeviceZone<S> zone;
  T* result;  // [B, height, width, all_channels]
  int height, width;
  int first_channel, channels, all_channels;  // of a pixel, `channels` are made here
  bool aligned;                               // rows of the result are whole vectors
  int vectors_per_row, blocks_per_sample;
  S scale[CHANNELS_AT_A_TIME], shift[CHANNELS_AT_A_TIME];

  MIXFAST_DEVICE void operator()(Block& block) const {
    const int64_t b = block.index / blocks_per_sample;
    const int first = int(block.index % blocks_per_sample) * THREADS;
    block.phase([&](int thread) {
      const int vector = first + thread;
      if (vector < height * vectors_per_row) make_vector(b, vector / vectors_per_row, vector % vectors_per_row);
    });
  }

  // Elements of row y of sample b, counted over the channels made here.
  MIXFAST_DEVICE void make_vector(int64_t b, int y, int place) const {
    const int first = place * VECTOR<T>, count = int(smaller(VECTOR<T>, width * channels - first));
    S sums[VECTOR<T>]{};
    for (int s = 0; s < sources; ++s) add_source(b, s, y, first, count, sums);
    Vector<T> values;
    int channel = first % channels;
    MIXFAST_UNROLL
    for (int i = 0; i < VECTOR<T>; ++i) {
      values[i] = narrowed<T, S>(sizeof(T) == 1 ? sums[i] : sums[i] * scale[channel] + shift[channel]);
      if (++channel == channels) channel = 0;
    }
    T* row = result + (b * height + y) * width * all_channels;
    if (channels == all_channels) return store_some(row + first, values, count, aligned);
    MIXFAST_UNROLL
    for (int i = 0; i < VECTOR<T>; ++i) {
      const int element = first + i;
      if (i < count) row[int64_t(element / channels) * all_channels + first_channel + element % channels] = values[i];
    }
  }

  // What source s adds to `count` elements of row y. Outside its image is black.
  MIXFAST_DEVICE void add_source(int64_t b, int s, int y, int first, int count, S* sums) const {
    const int64_t slot = b * sources + s;
    const int top = int(larger(0, smaller(crop[2 * slot], int64_t(image_height) + 2 * pad - height)) - pad);
    const int left = int(larger(0, smaller(crop[2 * slot + 1], int64_t(image_width) + 2 * pad - width)) - pad);
    const bool mirrored = flip && flip[slot];
    if (top + y < 0 || top + y >= image_height) return;
    const int64_t image = larger(0, smaller(index[slot], unique - 1));
    const uint8_t* pixels = images + image * stride_u + (top + y) * stride_y + first_channel * stride_c;
    const S inside = has_zone ? zone.inside[slot] : S(1), outside = has_zone ? zone.outside[slot] : S(1);
    int x = first / channels, channel = first % channels;
    MIXFAST_UNROLL
    for (int i = 0; i < VECTOR<T>; ++i) {
      const S weight = has_zone && i < count ? between(inside, outside, zone.coverage(b, y, x)) : inside;
      const int column = left + (mirrored ? width - 1 - x : x);
      if (i < count && weight != S(0) && column >= 0 && column < image_width) {
        sums[i] += weight * S(pixels[column * stride_x + channel * stride_c]);
      }
      if (++channel == channels) channel = 0, ++x;
    }
  }
};

// The bare operator is refused what would be read out of bounds; the public function has better words.
void check_arguments(const Tensor& images, const Tensor& index, const Tensor& crop, const OptionalTensor& flip,
                     const OptionalTensor& inside, const OptionalTensor& outside, const OptionalTensor& box,
                     const OptionalTensor& bitmap, int64_t pad, const OptionalFloats& mean, const OptionalFloats& std,
                     const std::vector<int64_t>& out_size) {
  STD_TORCH_CHECK(images.dim() == 4 && images.scalar_type() == ScalarType::Byte, "images must be uint8 [U, c, H, W]");
  STD_TORCH_CHECK(index.dim() == 2 && index.scalar_type() == ScalarType::Long, "index must be int64 [B, S]");
  const int64_t batch = index.size(0), sources = index.size(1), channels = images.size(1);
  STD_TORCH_CHECK(sizes_of(crop) == (std::vector<int64_t>{batch, sources, 2}) && crop.scalar_type() == ScalarType::Long,
                  "crop must be int64 [B, S, 2]");
  STD_TORCH_CHECK(!flip || (sizes_of(*flip) == sizes_of(index) && flip->scalar_type() == ScalarType::Bool),
                  "flip must be bool [B, S]");
  STD_TORCH_CHECK(inside.has_value() == outside.has_value(), "inside and outside must be given together");
  STD_TORCH_CHECK(out_size.size() == 2 && out_size[0] > 0 && out_size[1] > 0 && pad >= 0, "out_size must be two positive numbers");
  STD_TORCH_CHECK(out_size[0] <= images.size(2) + 2 * pad && out_size[1] <= images.size(3) + 2 * pad,
                  "out_size does not fit into the padded images");
  STD_TORCH_CHECK(batch == 0 || images.size(0) > 0, "there is no image to take");
  if (inside) {
    check_zone(*inside, *outside, box, bitmap, batch, out_size);
    STD_TORCH_CHECK(inside->size(1) == sources, "inside must be [B, S]");
  }
  STD_TORCH_CHECK(inside || sources == 1, "several sources need weights");
  for (const OptionalFloats* numbers : {&mean, &std}) {
    STD_TORCH_CHECK(!*numbers || int64_t((*numbers)->size()) == channels, "mean and std must hold a number a channel");
  }
  check_same_device(images, {&index, &crop});
  check_same_device(images, {&flip, &inside, &outside, &box, &bitmap});
}

Tensor augment(Tensor images, Tensor index, Tensor crop, OptionalTensor flip, OptionalTensor inside, OptionalTensor outside,
               OptionalTensor box, OptionalTensor bitmap, int64_t pad, OptionalFloats mean, OptionalFloats std, ScalarType dtype,
               std::vector<int64_t> out_size) {
  check_arguments(images, index, crop, flip, inside, outside, box, bitmap, pad, mean, std, out_size);
  const OnDeviceOf device(images);
  const int64_t batch = index.size(0), channels = images.size(1), height = out_size[0], width = out_size[1];
  const Tensor result = device_empty(images, {batch, channels, height, width}, dtype, {0, 2, 3, 1});
  if (result.numel() == 0) return result;
  index = as_contiguous(index);
  crop = as_contiguous(crop);
  if (flip) flip = as_contiguous(*flip);
  call_for_device_float_or_uint8(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using Body = AugmentBody<T>;
    using S = typename Body::S;
    std::optional<ZoneArguments<S>> zone;
    if (inside) zone.emplace(*inside, *outside, box, bitmap, height, width);
    Body body{};
    body.images = data<uint8_t>(images);
    body.stride_u = images.stride(0);
    body.stride_c = images.stride(1);
    body.stride_y = images.stride(2);
    body.stride_x = images.stride(3);
    body.unique = images.size(0);
    body.image_height = checked_int(images.size(2), "the height of the images");
    body.image_width = checked_int(images.size(3), "the width of the images");
    body.pad = checked_int(pad, "pad");
    checked_int(images.size(2) + 2 * pad, "the height of the padded images");
    checked_int(images.size(3) + 2 * pad, "the width of the padded images");
    body.index = data<int64_t>(index);
    body.crop = data<int64_t>(crop);
    body.flip = flip ? data<uint8_t>(*flip) : nullptr;
    body.sources = checked_int(index.size(1), "the number of sources");
    body.has_zone = zone.has_value();
    if (zone) body.zone = zone->view();
    body.result = mutable_data<T>(result);
    body.height = int(height);
    body.width = int(width);
    body.all_channels = checked_int(channels, "the number of channels");
    for (int64_t first = 0; first < channels; first += CHANNELS_AT_A_TIME) {
      body.first_channel = int(first);
      body.channels = int(std::min<int64_t>(channels - first, CHANNELS_AT_A_TIME));
      for (int i = 0; i < body.channels; ++i) {
        const double deviation = 255 * (std ? (*std)[first + i] : 1), centre = 255 * (mean ? (*mean)[first + i] : 0);
        body.scale[i] = S(1 / deviation);
        body.shift[i] = S(-centre / deviation);
      }
      const int64_t row = width * body.channels;
      body.aligned = row % VECTOR<T> == 0 && is_aligned(body.result);
      body.vectors_per_row = checked_int(divided_up(row, VECTOR<T>), "the width of the result");
      checked_int(height * divided_up(row, VECTOR<T>), "the size of the result");
      body.blocks_per_sample = int(divided_up(height * body.vectors_per_row, Body::THREADS));
      launch(images, batch * body.blocks_per_sample, 0, body);
    }
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, MIXFAST_KEY, m) { m.impl("augment", TORCH_BOX(&augment)); }

}  // namespace mixfast
