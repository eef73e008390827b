// The two-zone mix as kernels read it: what each input weighs inside and outside, and where inside is.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/tensors.h"

namespace mixfast {

// Half open, clamped to the grid; empty boxes have top == bottom or left == right.
struct Box {
  int64_t top, left, bottom, right;
};

// W: the type that weights are computed in, float or double.
template <class W>
class Zone {
 public:
  int64_t batch, inputs, height, width;
  std::vector<W> inside, outside;  // [batch, inputs]

  Zone(const Tensor& inside_BM, const Tensor& outside_BM, const OptionalTensor& box_B4, const OptionalTensor& bitmap_BHW,
       int64_t height, int64_t width)
      : batch(inside_BM.size(0)),
        inputs(inside_BM.size(1)),
        height(height),
        width(width),
        inside(floats_of<W>(inside_BM)),
        outside(floats_of<W>(outside_BM)) {
    if (box_B4) boxes_ = values_of<int32_t>(*box_B4, ScalarType::Int);
    if (bitmap_BHW) {
      bitmap_ = as_contiguous(*bitmap_BHW);
      bitmap_dtype_ = bitmap_->scalar_type();
    }
  }

  bool has_box() const { return !boxes_.empty(); }
  bool has_bitmap() const { return bitmap_.has_value(); }
  // Whether every position is wholly inside or wholly outside: all but a bitmap of coverages.
  bool is_binary() const { return !bitmap_ || bitmap_dtype_ == ScalarType::Bool; }

  const W* inside_of(int64_t b) const { return inside.data() + b * inputs; }
  const W* outside_of(int64_t b) const { return outside.data() + b * inputs; }

  Box box(int64_t b) const {
    const int32_t* edges = boxes_.data() + 4 * b;
    const int64_t top = std::clamp<int64_t>(edges[0], 0, height), left = std::clamp<int64_t>(edges[1], 0, width);
    return {top, left, std::clamp<int64_t>(edges[2], top, height), std::clamp<int64_t>(edges[3], left, width)};
  }

  // Row y of a bitmap of bits: not 0 where a position is inside.
  const uint8_t* bits(int64_t b, int64_t y) const { return data<uint8_t>(*bitmap_) + (b * height + y) * width; }

  // How much of each position of row y lies inside: `row` gets `width` values in 0..1.
  void coverage(int64_t b, int64_t y, W* row) const {
    if (!is_binary()) {
      const int64_t start = (b * height + y) * width;
      if (bitmap_dtype_ == ScalarType::Double) {
        std::copy_n(data<double>(*bitmap_) + start, width, row);
      } else {
        std::copy_n(data<float>(*bitmap_) + start, width, row);
      }
      return;
    }
    runs(b, y, [&](int64_t from, int64_t to, bool is_inside) { std::fill(row + from, row + to, W(is_inside)); });
  }

  // For binary zones: calls f(from, to, is_inside) for each longest run of columns of row y that lie in one zone, left
  // to right.
  template <class F>
  void runs(int64_t b, int64_t y, F&& f) const {
    if (has_box()) {
      box_runs(box(b), y, f);
    } else if (has_bitmap()) {
      bitmap_runs(bits(b, y), f);
    } else {
      f(int64_t(0), width, false);
    }
  }

 private:
  std::vector<int32_t> boxes_;  // [batch, 4]
  OptionalTensor bitmap_;       // [batch, height, width]
  ScalarType bitmap_dtype_ = ScalarType::Bool;

  template <class F>
  void box_runs(const Box& box, int64_t y, F&& f) const {
    if (y < box.top || y >= box.bottom || box.left == box.right) return f(int64_t(0), width, false);
    if (box.left > 0) f(int64_t(0), box.left, false);
    f(box.left, box.right, true);
    if (box.right < width) f(box.right, width, false);
  }

  template <class F>
  void bitmap_runs(const uint8_t* row, F&& f) const {
    for (int64_t from = 0; from < width;) {
      const bool is_inside = row[from] != 0;
      int64_t to = from + 1;
      while (to < width && (row[to] != 0) == is_inside) ++to;
      f(from, to, is_inside);
      from = to;
    }
  }
};

// The one input with a weight other than 0, or -1 when there are more (or none): a zone that shows a single input.
template <class W>
int64_t only_visible(const W* weights, int64_t inputs) {
  int64_t found = -1;
  for (int64_t i = 0; i < inputs; ++i) {
    if (weights[i] == 0) continue;
    if (found >= 0) return -1;
    found = i;
  }
  return found;
}

// The same, but only where that input weighs exactly 1: what it shows is seen as it is.
template <class W>
int64_t only_whole(const W* weights, int64_t inputs) {
  const int64_t found = only_visible(weights, inputs);
  return found >= 0 && weights[found] == 1 ? found : -1;
}

}  // namespace mixfast
