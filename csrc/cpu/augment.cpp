// augment on the CPU: gather, crop, flip, blend and normalise a uint8 batch; see kernels/mixfast_kernels/augment.py.
//
// Floor: one byte read for each visible channel of a pixel, one element written. In a sharp zone (each side shows one
// source, whole) only the source that is seen is read. A row of the result is put together as bytes in the first cache,
// across sources and flips, and turned into numbers once: one conversion, one multiply-add and one store for each
// vector of the result.
//
// Images are read where they are, in any memory layout. Each element is computed by itself: the same bits for any
// thread count.

#include <limits>

#include "common/buffer.h"
#include "common/parallel.h"
#include "common/streaming.h"
#include "common/tensors.h"
#include "common/zone.h"

namespace mixfast {
namespace {

// One source of one sample: the window's row y, column x shows the image's row top + y, column left + x (mirrored: left
// + width - 1 - x).
struct Window {
  const uint8_t* image;
  int64_t top, left;
  bool flip;
};

// What rows are made of. T: the result's element type; S: the type that sums are taken in.
template <class T>
struct AugmentArguments {
  using S = sum_t<T>;
  int64_t channels, image_height, image_width;
  int64_t row_stride, column_stride, channel_stride;  // of an image, in bytes
  int64_t height, width;                              // of the window
  int64_t sources;
  const Window* windows;  // [batch, sources]
  const Zone<S>* zone;    // null: one source, whole
  const S* scale;         // [width * channels]: the result is scale * byte + shift
  const S* shift;
  T* result;  // [batch, height, width, channels]
  bool stream;
  // Which of 16 bytes goes where when the whole pixels in them are turned round.
  uint8_t mirror[16];

  bool has_dense_pixels() const { return channel_stride == 1 && column_stride == channels; }
};

// Bytes behind a row of bytes: mirroring stores 16 at a time, and short rows are read in whole vectors.
constexpr int64_t ROW_SLACK = 64;

// What a thread puts its rows together in. Raw pointers: memory is allocated outside the kernel, see each_isa.h.
template <class S>
struct Scratch {
  uint8_t* bytes;  // several rows, row_bytes apart
  int64_t row_bytes;
  S *coverage, *element_coverage;  // [width], [width * channels + ROW_SLACK]
  const uint8_t** rows;            // [sources]
  S* weights;                      // [sources]

  uint8_t* row(int64_t i) const { return bytes + i * row_bytes; }
};

}  // namespace
}  // namespace mixfast

#define MIXFAST_KERNEL "cpu/augment_kernel.h"
#include "common/each_isa.h"

namespace mixfast {
namespace {

// The windows of all samples, their images and places checked.
std::vector<Window> windows_of(const Tensor& images, const Tensor& index_BS, const Tensor& crop_BS2, const OptionalTensor& flip_BS,
                               int64_t pad, int64_t height, int64_t width) {
  const std::vector<int64_t> index = integers_of(index_BS), crop = integers_of(crop_BS2);
  const std::vector<uint8_t> flip = flip_BS ? values_of<uint8_t>(*flip_BS, ScalarType::Bool) : std::vector<uint8_t>(index.size());
  check_indices(index, images.size(0), "index");
  const int64_t rows = images.size(2) + 2 * pad - height + 1, columns = images.size(3) + 2 * pad - width + 1;
  std::vector<Window> windows(index.size());
  for (size_t i = 0; i < windows.size(); ++i) {
    check_index(crop[2 * i], rows, "crop (top)");
    check_index(crop[2 * i + 1], columns, "crop (left)");
    const uint8_t* image = data<uint8_t>(images) + index[i] * images.stride(0);
    windows[i] = {image, crop[2 * i] - pad, crop[2 * i + 1] - pad, flip[i] != 0};
  }
  return windows;
}

// For each element of a row, from per-channel statistics in units of 0..1: (byte / 255 - mean) / std = scale * byte +
// shift.
template <class S>
struct Normalisation {
  std::vector<S> scale, shift;

  Normalisation(const std::optional<std::vector<double>>& mean, const std::optional<std::vector<double>>& std, int64_t width,
                int64_t channels, bool to_bytes)
      : scale(width * channels + ROW_SLACK), shift(width * channels + ROW_SLACK) {
    for (int64_t i = 0; i < width * channels; ++i) {
      const double deviation = std ? (*std)[i % channels] : 1, centre = mean ? (*mean)[i % channels] : 0;
      scale[i] = to_bytes ? S(1) : S(1 / (255 * deviation));
      shift[i] = to_bytes ? S(0) : S(-centre / deviation);
    }
  }
};

void fill_mirror(uint8_t (&mirror)[16], int64_t channels) {
  const int64_t pixels = 16 / channels;
  for (int64_t j = 0; j < pixels * channels; ++j) mirror[j] = (pixels - 1 - j / channels) * channels + j % channels;
}

template <class T>
void run(AugmentArguments<T> arguments, int64_t batch) {
  using S = sum_t<T>;
  const int64_t elements = arguments.width * arguments.channels;
  parallel_for(batch * arguments.height, elements * (sizeof(T) + 1), [&](int64_t begin, int64_t end) {
    // A row of bytes for each source, and at least the three of a sharp bitmap.
    const int64_t rows = std::max<int64_t>(arguments.sources, 3), row_bytes = elements + ROW_SLACK;
    std::vector<uint8_t> bytes(rows * row_bytes);
    std::vector<S> coverage(arguments.width), element_coverage(row_bytes), weights(arguments.sources);
    std::vector<const uint8_t*> row_of(arguments.sources);
    const Scratch<S> scratch{bytes.data(), row_bytes, coverage.data(), element_coverage.data(), row_of.data(), weights.data()};
    const Buffer<T> tile = make_buffer<T>(tile_capacity(elements));
    MIXFAST_CALL(augment_rows<T>, arguments, scratch, tile.get(), begin, end);
  });
}

Tensor augment(Tensor images, Tensor index, Tensor crop, OptionalTensor flip, OptionalTensor inside, OptionalTensor outside,
               OptionalTensor box, OptionalTensor bitmap, int64_t pad, std::optional<std::vector<double>> mean,
               std::optional<std::vector<double>> std, ScalarType dtype, std::vector<int64_t> out_size) {
  const int64_t batch = index.size(0), channels = images.size(1), height = out_size[0], width = out_size[1];
  const std::vector<Window> windows = windows_of(images, index, crop, flip, pad, height, width);
  const Tensor result = empty_channels_last({batch, channels, height, width}, dtype);
  call_for_float_or_uint8(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    std::optional<Zone<S>> zone;
    if (inside && outside) zone.emplace(*inside, *outside, box, bitmap, height, width);
    const Normalisation<S> normalisation(mean, std, width, channels, dtype == ScalarType::Byte);
    AugmentArguments<T> arguments{};
    arguments.channels = channels;
    arguments.image_height = images.size(2);
    arguments.image_width = images.size(3);
    arguments.row_stride = images.stride(2);
    arguments.column_stride = images.stride(3);
    arguments.channel_stride = images.stride(1);
    arguments.height = height;
    arguments.width = width;
    arguments.sources = index.size(1);
    arguments.windows = windows.data();
    arguments.zone = zone ? &*zone : nullptr;
    arguments.scale = normalisation.scale.data();
    arguments.shift = normalisation.shift.data();
    arguments.result = mutable_data<T>(result);
    arguments.stream = result.numel() * int64_t(sizeof(T)) >= STREAM_FROM_BYTES;
    if (channels > 0) fill_mirror(arguments.mirror, channels);
    run(arguments, batch);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) { m.impl("augment", TORCH_BOX(&augment)); }

}  // namespace mixfast
