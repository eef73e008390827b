// What the two directions of mask-mix-encode share: shapes and layouts that their kernels work on.
//
// S is the type sums are taken in, float or double. A window is the k x k x c pixels under one output position; its elements
// are taps, in the order (row, column, channel): that of channels-last pixels in memory.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "common/buffer.h"
#include "common/zone.h"

namespace mixfast {

struct EncodeShape {
  int64_t batch, inputs, encoders, unique;                   // B, M, 1 or M, U
  int64_t image_channels, image_height, image_width;         // c, H, W
  int64_t channels, kernel, stride, padding, height, width;  // C, k, -, -, H', W'

  int64_t positions() const { return height * width; }
  int64_t taps() const { return kernel * kernel * image_channels; }
  int64_t encoder_of(int64_t input) const { return encoders == 1 ? 0 : input; }

  // Windows that do not overlap are copied out one after the other: each pixel is copied at most once, and positions that
  // are apart in the image become rows of one matrix. Windows that overlap are read from a copy of the image with its border.
  bool has_patches() const { return stride >= kernel; }
  // From one patch to the next: an odd number of cache lines, so that the same tap of many patches does not fall into few sets.
  int64_t patch_step() const { return ((taps() + 15) / 16 | 1) * 16; }
  int64_t packed_width() const { return (width - 1) * stride + kernel; }
  // Elements that the pixels under `rows` output rows of one input take, packed.
  int64_t packed_size(int64_t rows) const {
    if (has_patches()) return rows * width * patch_step();
    return ((rows - 1) * stride + kernel) * packed_width() * image_channels;
  }
};

// Where packed windows lie: each is `rows` stretches of `taps` elements; `step` leads from a position's window to the next one's.
struct WindowLayout {
  int64_t rows, taps, row_stride, step;

  static WindowLayout of(const EncodeShape& shape) {
    if (shape.has_patches()) return {1, shape.taps(), 0, shape.patch_step()};
    const int64_t c = shape.image_channels;
    return {shape.kernel, shape.kernel * c, shape.packed_width() * c, shape.stride * c};
  }
};

// Images as they lie in memory, strides in elements. Where factor is not null a value is read as factor * value + shift.
template <class S>
struct Pixels {
  const void* data;
  ScalarType dtype;
  int64_t stride_u, stride_c, stride_y, stride_x;
  const S *factor, *shift;  // [W * c]: repeated, so that rows of channels-last pixels are normalised element by element
};

// A matrix [depth, columns] cut into panels of 128 bytes of columns, each stored as [depth, width]: products walk through one
// in order. The last panel is filled up with zeros to a multiple of 64 bytes, the widest vector.
template <class S>
struct Panels {
  static constexpr int64_t WIDTH = 128 / sizeof(S), GRANULE = 64 / sizeof(S);

  static int64_t padded(int64_t columns) { return (columns + GRANULE - 1) / GRANULE * GRANULE; }
  static int64_t size(int64_t depth, int64_t columns) { return depth * padded(columns); }
  // The width of the panel that begins at column `first`; it begins at element depth * first.
  static int64_t width(int64_t columns, int64_t first) {
    const int64_t left = padded(columns) - first;
    return left < WIDTH ? left : WIDTH;
  }
  static int64_t place(int64_t depth, int64_t columns, int64_t row, int64_t column) {
    const int64_t first = column / WIDTH * WIDTH;
    return depth * first + row * width(columns, first) + column - first;
  }
};

// Columns [from, to) of output row y.
struct Run {
  int64_t y, from, to;
};

// Runs [begin, end) of a list, all covered by the inside zone to the same degree: so their weights are the same.
template <class S>
struct RunGroup {
  S coverage;
  int64_t begin, end;
};

// Rows [first_row, end_row) of sample b, cut into runs of constant weights.
template <class S>
struct Band {
  int64_t b, first_row, end_row;
  const Run* runs;
  const RunGroup<S>* groups;
  int64_t group_count;
  const S* weights;  // [groups, M]
};

// Cuts bands into runs: a group of all runs inside, one of all outside, and each partly covered run as a group of its own.
template <class S>
class BandCutter {
 public:
  explicit BandCutter(const Zone<S>& zone) : zone_(zone), row_(zone.is_binary() ? 0 : zone.width) {}

  // Valid until the next call.
  Band<S> cut(int64_t b, int64_t first_row, int64_t end_row) {
    runs_.clear();
    outside_.clear();
    partly_.clear();
    groups_.clear();
    weights_.clear();
    for (int64_t y = first_row; y < end_row; ++y) {
      if (zone_.is_binary()) {
        zone_.runs(b, y, [&](int64_t from, int64_t to, bool inside) { (inside ? runs_ : outside_).push_back({y, from, to}); });
      } else {
        cut_covered_row(b, y);
      }
    }
    const int64_t inside = runs_.size(), binary = inside + outside_.size();
    runs_.insert(runs_.end(), outside_.begin(), outside_.end());
    if (inside > 0) add_group(b, S(1), 0, inside);
    if (binary > inside) add_group(b, S(0), inside, binary);
    for (const auto& [run, coverage] : partly_) {
      runs_.push_back(run);
      add_group(b, coverage, runs_.size() - 1, runs_.size());
    }
    return {b, first_row, end_row, runs_.data(), groups_.data(), int64_t(groups_.size()), weights_.data()};
  }

 private:
  const Zone<S>& zone_;
  std::vector<S> row_;
  std::vector<Run> runs_, outside_;
  std::vector<std::pair<Run, S>> partly_;
  std::vector<RunGroup<S>> groups_;
  std::vector<S> weights_;

  void cut_covered_row(int64_t b, int64_t y) {
    zone_.coverage(b, y, row_.data());
    for (int64_t from = 0; from < zone_.width;) {
      const S coverage = row_[from];
      int64_t to = from + 1;
      while (to < zone_.width && row_[to] == coverage) ++to;
      const Run run{y, from, to};
      if (coverage == S(1)) {
        runs_.push_back(run);
      } else if (coverage == S(0)) {
        outside_.push_back(run);
      } else {
        partly_.push_back({run, coverage});
      }
      from = to;
    }
  }

  // Weights within a zone are taken as they are: 0 stays 0, and that input is not encoded there.
  void add_group(int64_t b, S coverage, int64_t begin, int64_t end) {
    groups_.push_back({coverage, begin, end});
    const S *inside = zone_.inside_of(b), *outside = zone_.outside_of(b);
    for (int64_t i = 0; i < zone_.inputs; ++i) {
      const S between = outside[i] + coverage * (inside[i] - outside[i]);
      weights_.push_back(coverage == S(1) ? inside[i] : coverage == S(0) ? outside[i] : between);
    }
  }
};

// One call as its kernels see it.
template <class S>
struct EncodePlan {
  EncodeShape shape;
  WindowLayout windows;
  Pixels<S> pixels;
  const int64_t* index;  // [B, M]
  const S* weight;       // [encoders], each panels of [taps, C]
  const S* bias;         // [encoders, C padded]; zeros where there is none
  S scale;

  const S* weight_of(int64_t input) const {
    return weight + shape.encoder_of(input) * Panels<S>::size(shape.taps(), shape.channels);
  }
  const S* bias_of(int64_t input) const { return bias + shape.encoder_of(input) * Panels<S>::padded(shape.channels); }
};

// A stretch of a band's output positions (row by row), whose windows are `step` apart and begin at element `pixels` of the packed
// ones.
struct Span {
  int64_t pixels, first, count;
};

// Rows that are worked on at a time: as few as keep their packed pixels and results in the second-level cache.
inline int64_t rows_of_band(const EncodeShape& shape, int64_t element_size) {
  constexpr int64_t CACHE_BYTES = 512 * 1024;
  int64_t rows = shape.height;
  while (rows > 1 && (shape.packed_size(rows) + rows * shape.width * shape.channels) * element_size > CACHE_BYTES) {
    rows = (rows + 1) / 2;
  }
  return rows;
}

}  // namespace mixfast
