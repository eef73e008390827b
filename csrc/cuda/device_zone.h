// The two-zone mix as kernels read it, and how much of a position it covers; see kernels/mixfast_kernels/mixing.py.
#pragma once

#include "cuda/device_tensors.h"

namespace mixfast {

enum class ZoneKind : int { NONE, BOX, BITS, FLOATS, DOUBLES };

MIXFAST_DEVICE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
MIXFAST_DEVICE int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

// The share of target cell t of an axis of `target` cells that the source cells [from, to) of `source` take. Lengths are
// counted in 1/target of a source cell, so the overlap is exact.
template <class S>
MIXFAST_DEVICE S share_of_target(int64_t from, int64_t to, int t, int source, int target) {
  const int64_t low = larger(larger(from, 0) * target, int64_t(t) * source);
  const int64_t high = smaller(smaller(to, source) * target, int64_t(t + 1) * source);
  return high > low ? S(high - low) / S(source) : S(0);
}

// A weight where so much is covered. Whole zones give theirs as they are: 0 stays 0.
template <class S>
MIXFAST_DEVICE S between(S inside, S outside, S covered) {
  return covered == S(0) ? outside : covered == S(1) ? inside : outside + covered * (inside - outside);
}

// S: the type weights are computed in.
template <class S>
struct DeviceZone {
  ZoneKind kind;
  int inputs, height, width;
  const S *inside, *outside;  // [B, M]
  const int32_t* box;         // [B, 4]
  const void* bitmap;         // [B, height, width]

  // How much of position (y, x) lies inside.
  MIXFAST_DEVICE S coverage(int64_t b, int y, int x) const {
    if (kind == ZoneKind::NONE) return S(0);
    if (kind == ZoneKind::BOX) {
      const int32_t* edges = box + 4 * b;
      return S(y >= edges[0] && y < edges[2] && x >= edges[1] && x < edges[3]);
    }
    const int64_t place = (b * height + y) * width + x;
    if (kind == ZoneKind::BITS) return S(static_cast<const uint8_t*>(bitmap)[place] != 0);
    return kind == ZoneKind::FLOATS ? S(static_cast<const float*>(bitmap)[place]) : S(static_cast<const double*>(bitmap)[place]);
  }

  // The same on a grid of other size, for a box.
  MIXFAST_DEVICE S box_coverage(int64_t b, int y, int x, int target_height, int target_width) const {
    const int32_t* edges = box + 4 * b;
    const S rows = share_of_target<S>(edges[0], edges[2], y, height, target_height);
    return rows == S(0) ? rows : rows * share_of_target<S>(edges[1], edges[3], x, width, target_width);
  }

  MIXFAST_DEVICE S weight(int64_t b, int input, S covered) const {
    return between(inside[b * inputs + input], outside[b * inputs + input], covered);
  }
};

// Holds the memory that a DeviceZone points to.
template <class S>
class ZoneArguments {
 public:
  ZoneArguments(const Tensor& inside, const Tensor& outside, const OptionalTensor& box, const OptionalTensor& bitmap,
                int64_t height, int64_t width)
      : inside_(as_contiguous_in(inside, dtype_of_sums<S>())),
        outside_(as_contiguous_in(outside, dtype_of_sums<S>())),
        height_(checked_int(height, "the height of the grid")),
        width_(checked_int(width, "the width of the grid")) {
    if (box) box_ = as_contiguous_in(*box, ScalarType::Int);
    if (bitmap) bitmap_ = as_contiguous(*bitmap);
  }

  DeviceZone<S> view() const {
    return {kind(),
            checked_int(inside_.size(1), "the number of inputs"),
            height_,
            width_,
            data<S>(inside_),
            data<S>(outside_),
            box_ ? data<int32_t>(*box_) : nullptr,
            bitmap_ ? bitmap_->const_data_ptr() : nullptr};
  }

 private:
  Tensor inside_, outside_;
  int height_, width_;
  OptionalTensor box_, bitmap_;

  ZoneKind kind() const {
    if (box_) return ZoneKind::BOX;
    if (!bitmap_) return ZoneKind::NONE;
    if (bitmap_->scalar_type() == ScalarType::Bool) return ZoneKind::BITS;
    return bitmap_->scalar_type() == ScalarType::Double ? ZoneKind::DOUBLES : ZoneKind::FLOATS;
  }
};

}  // namespace mixfast
