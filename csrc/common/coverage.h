// How much of each position of one grid a zone covers that was drawn on another: what Mixing.resized(size, "area") gives.
#pragma once

#include "common/buffer.h"
#include "common/parallel.h"
#include "common/zone.h"

namespace mixfast {

// The share of target cell t that the interval [from, to) of source cells takes; a target cell is `cell` source cells long. In
// double: a small share is the difference of two large borders.
inline double share_of_cell(int64_t from, int64_t to, int64_t t, double cell) {
  const double low = double(t) * cell;
  return std::clamp((std::min(double(to), low + cell) - std::max(double(from), low)) / cell, 0.0, 1.0);
}

// Refuses a zone that does not fit the batch or its grid: kernels would read past its end.
inline void check_zone(const Tensor& inside, const Tensor& outside, const OptionalTensor& box, const OptionalTensor& bitmap,
                       int64_t batch, const std::vector<int64_t>& grid) {
  STD_TORCH_CHECK(grid.size() == 2 && grid[0] > 0 && grid[1] > 0, "grid must be (height, width), both at least 1");
  STD_TORCH_CHECK(inside.dim() == 2 && inside.size(0) == batch, "inside must be [B, M] with B = ", batch);
  STD_TORCH_CHECK(sizes_of(outside) == sizes_of(inside), "outside must have the shape of inside");
  STD_TORCH_CHECK(!box || sizes_of(*box) == (std::vector<int64_t>{batch, 4}), "box must be [B, 4] with B = ", batch);
  STD_TORCH_CHECK(!bitmap || sizes_of(*bitmap) == (std::vector<int64_t>{batch, grid[0], grid[1]}),
                  "bitmap must be [B, H, W] with B = ", batch, " and (H, W) = (", grid[0], ", ", grid[1], ")");
  const auto is = [&](ScalarType dtype) { return bitmap->scalar_type() == dtype; };
  STD_TORCH_CHECK(!bitmap || is(ScalarType::Bool) || is(ScalarType::Float) || is(ScalarType::Double),
                  "bitmap must be bool, float32 or float64");
}

// For every target cell of one axis the source cells that reach into it, and their shares of it.
template <class W>
class AxisShares {
 public:
  AxisShares(int64_t source, int64_t target) : starts_(target + 1) {
    const double cell = double(source) / double(std::max<int64_t>(target, 1));
    for (int64_t t = 0; t < target; ++t) {
      // From one cell early: rounding may have moved the border.
      for (int64_t s = std::max<int64_t>(int64_t(double(t) * cell) - 1, 0); s < source && double(s) < double(t + 1) * cell; ++s) {
        const double share = share_of_cell(s, s + 1, t, cell);
        if (share > 0) entries_.push_back({s, W(share)});
      }
      starts_[t + 1] = int64_t(entries_.size());
    }
  }

  // Calls f(source cell, share) for target cell t.
  template <class F>
  void for_each(int64_t t, F&& f) const {
    for (int64_t i = starts_[t]; i < starts_[t + 1]; ++i) f(entries_[i].source, entries_[i].share);
  }

 private:
  struct Entry {
    int64_t source;
    W share;
  };
  std::vector<Entry> entries_;
  std::vector<int64_t> starts_;
};

template <class W>
class Coverage {
 public:
  // `zone` must live as long as this.
  Coverage(const Zone<W>& zone, int64_t height, int64_t width)
      : zone_(zone), height_(height), width_(width), rows_(zone.height, height), columns_(zone.width, width) {}

  int64_t positions() const { return height_ * width_; }

  // Calls f(b, covered, uncovered) for every sample, on all threads: the share of each position, row by row, that lies inside the
  // sample's zone, and the share that does not. Zeros follow, so that whole vectors may be loaded. make() gives each thread an f.
  template <class Make>
  void for_each_sample(int64_t bytes_each, const Make& make) const {
    constexpr int64_t WIDEST_VECTOR = 16;
    parallel_for(zone_.batch, bytes_each, [&](int64_t begin, int64_t end) {
      const Buffer<W> covered = make_buffer<W>(positions() + WIDEST_VECTOR),
                      uncovered = make_buffer<W>(positions() + WIDEST_VECTOR);
      const Buffer<W> scratch = make_buffer<W>(2 * zone_.width);
      for (const Buffer<W>* shares : {&covered, &uncovered}) std::fill_n(shares->get() + positions(), WIDEST_VECTOR, W(0));
      const auto f = make();
      for (int64_t b = begin; b < end; ++b) {
        cover(b, covered.get(), scratch.get());
        for (int64_t p = 0; p < positions(); ++p) uncovered[p] = 1 - covered[p];
        f(b, static_cast<const W*>(covered.get()), static_cast<const W*>(uncovered.get()));
      }
    });
  }

 private:
  const Zone<W>& zone_;
  int64_t height_, width_;
  AxisShares<W> rows_, columns_;

  void cover(int64_t b, W* covered, W* scratch) const {
    if (positions() == 0) return;
    if (height_ == zone_.height && width_ == zone_.width) {
      for (int64_t y = 0; y < height_; ++y) zone_.coverage(b, y, covered + y * width_);
    } else if (zone_.has_box()) {
      resample_box(zone_.box(b), covered);
    } else if (zone_.has_bitmap()) {
      resample_bitmap(b, covered, scratch);
    } else {
      std::fill_n(covered, positions(), W(0));
    }
  }

  void resample_box(const Box& box, W* covered) const {
    const double row_cell = double(zone_.height) / double(height_), column_cell = double(zone_.width) / double(width_);
    for (int64_t x = 0; x < width_; ++x) covered[x] = W(share_of_cell(box.left, box.right, x, column_cell));
    // The last row first: the first one holds what all are made from.
    for (int64_t y = height_ - 1; y >= 0; --y) {
      const W row = W(share_of_cell(box.top, box.bottom, y, row_cell));
      for (int64_t x = 0; x < width_; ++x) covered[y * width_ + x] = row * covered[x];
    }
  }

  // A weighted sum of the source cells under each target cell: rows first, then columns. scratch: two rows of source cells.
  void resample_bitmap(int64_t b, W* covered, W* scratch) const {
    W* source = scratch;
    W* sums = scratch + zone_.width;
    for (int64_t y = 0; y < height_; ++y) {
      std::fill_n(sums, zone_.width, W(0));
      rows_.for_each(y, [&](int64_t source_y, W share) {
        read_row(b, source_y, source);
        for (int64_t x = 0; x < zone_.width; ++x) sums[x] += share * source[x];
      });
      for (int64_t x = 0; x < width_; ++x) {
        W sum = 0;
        columns_.for_each(x, [&](int64_t source_x, W share) { sum += share * sums[source_x]; });
        covered[y * width_ + x] = sum;
      }
    }
  }

  // As Zone::coverage, without a branch a bit.
  void read_row(int64_t b, int64_t y, W* row) const {
    if (!zone_.is_binary()) return zone_.coverage(b, y, row);
    const uint8_t* bits = zone_.bits(b, y);
    for (int64_t x = 0; x < zone_.width; ++x) row[x] = W(bits[x] != 0);
  }
};

}  // namespace mixfast
