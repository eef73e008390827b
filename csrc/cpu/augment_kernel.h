// The loops over rows of the result; included once for each instruction set (common/each_isa.h).

#include "common/stream_rows.h"

// --- gathering a row of bytes ---

// `count` pixels from `from` onwards, in any memory layout, to dense bytes.
template <class T>
inline void copy_pixels(const AugmentArguments<T>& a, const uint8_t* from, uint8_t* to, int64_t count) {
  if (a.has_dense_pixels()) {
    std::memcpy(to, from, count * a.channels);
    return;
  }
  for (int64_t x = 0; x < count; ++x) {
    for (int64_t k = 0; k < a.channels; ++k) to[x * a.channels + k] = from[x * a.column_stride + k * a.channel_stride];
  }
}

// The same pixels last to first. Writes up to ROW_SLACK bytes past the end, reads none.
template <class T>
inline void copy_mirrored(const AugmentArguments<T>& a, const uint8_t* from, uint8_t* to, int64_t count) {
  int64_t x = 0;  // pixels of `to` that are done
#if MIXFAST_AVX2
  if (a.has_dense_pixels() && a.channels <= 16) {
    const int64_t step = 16 / a.channels, unused = 16 - step * a.channels;
    const __m128i order = load_raw<__m128i>(a.mirror);
    // A load's unused bytes lie behind its pixels: the first ones go singly, until as many bytes are behind.
    for (; x < count && x * a.channels < unused; ++x) copy_pixels(a, from + (count - 1 - x) * a.channels, to + x * a.channels, 1);
    for (; x + step <= count; x += step) {
      const __m128i pixels = load_raw<__m128i>(from + (count - x - step) * a.channels);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + x * a.channels), _mm_shuffle_epi8(pixels, order));
    }
  }
#endif
  for (; x < count; ++x) copy_pixels(a, from + (count - 1 - x) * a.column_stride, to + x * a.channels, 1);
}

// Row y, columns first to last - 1 of a window: in the image itself where it lies there as wanted and
// `in_place` allows it, else put into `bytes`.
template <class T>
inline const uint8_t* row_bytes(const AugmentArguments<T>& a, const Window& window, int64_t y, int64_t first, int64_t last,
                                uint8_t* bytes, bool in_place) {
  const int64_t row = window.top + y, length = (last - first) * a.channels;
  if (row < 0 || row >= a.image_height) {
    std::memset(bytes, 0, length);
    return bytes;
  }
  // The columns that show the image, not the padding: seen_from to seen_to - 1; column seen_from shows the image's
  // `column`, or, mirrored, column seen_to - 1 does.
  const int64_t start = window.flip ? window.left + a.width - a.image_width : -window.left;
  const int64_t seen_from = std::min(std::max(start, first), last);
  const int64_t seen_to = std::max(std::min(start + a.image_width, last), seen_from);
  const int64_t column = window.flip ? window.left + a.width - seen_to : window.left + seen_from;
  const uint8_t* image = window.image + row * a.row_stride + column * a.column_stride;
  if (in_place && !window.flip && a.has_dense_pixels() && seen_from == first && seen_to == last) return image;

  uint8_t* seen = bytes + (seen_from - first) * a.channels;
  std::memset(bytes, 0, (seen_from - first) * a.channels);
  if (window.flip) {
    copy_mirrored(a, image, seen, seen_to - seen_from);
  } else {
    copy_pixels(a, image, seen, seen_to - seen_from);
  }
  std::memset(bytes + (seen_to - first) * a.channels, 0, (last - seen_to) * a.channels);
  return bytes;
}

// --- turning bytes into numbers ---

// Calls f(i, lanes) for vectors that cover 0..count, the last one overlapping its predecessor: f must give the same
// when called again. Where count is less than a vector, f is called once, for fewer lanes.
template <class S, class F>
inline void for_each_overlapping(int64_t count, F&& f) {
  if (count < LANES<S>) return f(0, count);
  for (int64_t i = 0; i + LANES<S> <= count; i += LANES<S>) f(i, LANES<S>);
  if (count % LANES<S> != 0) f(count - LANES<S>, LANES<S>);
}

template <class T>
inline void store_lanes(T* to, Vector<sum_t<T>> values, int64_t lanes) {
  if (lanes == LANES<sum_t<T>>) {
    store(to, values);
  } else {
    store_first(to, values, lanes);
  }
}

// A short row is read in whole vectors all the same, so it has to lie in a thread's own bytes, which are longer.
template <class T>
inline bool may_stay(int64_t elements) {
  return elements >= LANES<sum_t<T>>;
}

template <class T>
inline void normalise(const AugmentArguments<T>& a, const uint8_t* bytes, T* result, int64_t count) {
  using S = sum_t<T>;
  if constexpr (sizeof(T) == 1) {
    std::memcpy(result, bytes, count);
  } else {
    const S *scale = a.scale, *shift = a.shift;  // not read again after each store
    for_each_overlapping<S>(count, [=](int64_t i, int64_t lanes) {
      store_lanes(result + i, load_bytes<S>(bytes + i) * load(scale + i) + load(shift + i), lanes);
    });
  }
}

// The sum of the sources' rows, normalised; weight_of(s, i) gives the weights of source s from element i on.
template <class T, class F>
inline void blend(const AugmentArguments<T>& a, const uint8_t* const* rows, int64_t sources, T* result, int64_t count,
                  F&& weight_of) {
  using S = sum_t<T>;
  const S *scale = a.scale, *shift = a.shift;
  for_each_overlapping<S>(count, [&](int64_t i, int64_t lanes) {
    Vector<S> sum = {};
    for (int64_t s = 0; s < sources; ++s) sum += load_bytes<S>(rows[s] + i) * weight_of(s, i);
    store_lanes(result + i, sum * load(scale + i) + load(shift + i), lanes);
  });
}

// --- the kinds of rows ---

// One source, whole.
template <class T>
inline void plain_row(const AugmentArguments<T>& a, const Window& window, int64_t y, const Scratch<sum_t<T>>& scratch, T* result) {
  const int64_t elements = a.width * a.channels;
  normalise(a, row_bytes(a, window, y, 0, a.width, scratch.bytes, may_stay<T>(elements)), result, elements);
}

// Each zone shows one source, whole: bytes are put side by side, nothing is blended.
template <class T>
inline void sharp_row(const AugmentArguments<T>& a, const Window& inside, const Window& outside, int64_t b, int64_t y,
                      const Scratch<sum_t<T>>& scratch, T* result) {
  a.zone->runs(b, y, [&](int64_t from, int64_t to, bool is_inside) {
    row_bytes(a, is_inside ? inside : outside, y, from, to, scratch.bytes + from * a.channels, false);
  });
  normalise(a, scratch.bytes, result, a.width * a.channels);
}

// Each pixel from seen[1] where its bit is set, else from seen[0]. CHANNELS: 0 for any number.
template <int CHANNELS>
inline void select_pixels(const uint8_t* const (&seen)[2], const uint8_t* bits, uint8_t* bytes, int64_t width, int64_t channels) {
  const int64_t length = CHANNELS ? CHANNELS : channels;
  for (int64_t x = 0; x < width; ++x) std::memcpy(bytes + x * length, seen[bits[x] != 0] + x * length, length);
}

// The same for a zone that may change at every pixel.
template <class T>
inline void sharp_bitmap_row(const AugmentArguments<T>& a, const Window& inside, const Window& outside, const uint8_t* is_inside,
                             int64_t y, const Scratch<sum_t<T>>& scratch, T* result) {
  const uint8_t* seen[2] = {row_bytes(a, outside, y, 0, a.width, scratch.row(1), true),
                            row_bytes(a, inside, y, 0, a.width, scratch.row(2), true)};
  switch (a.channels) {
    case 1:
      select_pixels<1>(seen, is_inside, scratch.bytes, a.width, 1);
      break;
    case 3:
      select_pixels<3>(seen, is_inside, scratch.bytes, a.width, 3);
      break;
    default:
      select_pixels<0>(seen, is_inside, scratch.bytes, a.width, a.channels);
  }
  normalise(a, scratch.bytes, result, a.width * a.channels);
}

// Constant weights within a zone; sources that weigh nothing there are not read.
template <class T>
inline void blended_row(const AugmentArguments<T>& a, const Window* windows, int64_t b, int64_t y, const Scratch<sum_t<T>>& scratch,
                        T* result) {
  using S = sum_t<T>;
  a.zone->runs(b, y, [&](int64_t from, int64_t to, bool is_inside) {
    const S* weights = is_inside ? a.zone->inside_of(b) : a.zone->outside_of(b);
    const int64_t elements = (to - from) * a.channels;
    int64_t seen = 0;
    for (int64_t s = 0; s < a.sources; ++s) {
      if (weights[s] == 0) continue;
      scratch.rows[seen] = row_bytes(a, windows[s], y, from, to, scratch.row(seen), may_stay<T>(elements));
      scratch.weights[seen++] = weights[s];
    }
    const S* seen_weights = scratch.weights;
    blend(a, scratch.rows, seen, result + from * a.channels, elements,
          [=](int64_t s, int64_t) { return broadcast(seen_weights[s]); });
  });
}

// Weights that change from pixel to pixel.
template <class T>
inline void covered_row(const AugmentArguments<T>& a, const Window* windows, int64_t b, int64_t y, const Scratch<sum_t<T>>& scratch,
                        T* result) {
  using S = sum_t<T>;
  const int64_t elements = a.width * a.channels;
  a.zone->coverage(b, y, scratch.coverage);
  S* coverage = scratch.element_coverage;
  for (int64_t i = 0; i < elements; ++i) coverage[i] = scratch.coverage[i / a.channels];
  for (int64_t s = 0; s < a.sources; ++s) {
    scratch.rows[s] = row_bytes(a, windows[s], y, 0, a.width, scratch.row(s), may_stay<T>(elements));
  }
  const S *inside = a.zone->inside_of(b), *outside = a.zone->outside_of(b);
  blend(a, scratch.rows, a.sources, result, elements,
        [=](int64_t s, int64_t i) { return load(coverage + i) * (inside[s] - outside[s]) + outside[s]; });
}

template <class T>
inline void augment_row(const AugmentArguments<T>& a, const Scratch<sum_t<T>>& scratch, int64_t b, int64_t y, T* result) {
  const Window* windows = a.windows + b * a.sources;
  if (!a.zone) return plain_row(a, windows[0], y, scratch, result);
  if (!a.zone->is_binary()) return covered_row(a, windows, b, y, scratch, result);
  const int64_t inside = only_whole(a.zone->inside_of(b), a.sources), outside = only_whole(a.zone->outside_of(b), a.sources);
  if (inside < 0 || outside < 0) return blended_row(a, windows, b, y, scratch, result);
  if (a.zone->has_bitmap()) {
    return sharp_bitmap_row(a, windows[inside], windows[outside], a.zone->bits(b, y), y, scratch, result);
  }
  sharp_row(a, windows[inside], windows[outside], b, y, scratch, result);
}

// tile: tile_capacity of a row.
template <class T>
void augment_rows(const AugmentArguments<T>& a, const Scratch<sum_t<T>>& scratch, T* tile, int64_t begin, int64_t end) {
  const int64_t elements = a.width * a.channels;
  write_rows(a.result + begin * elements, end - begin, elements, tile, a.stream,
             [&](int64_t r, T* to) { augment_row(a, scratch, (begin + r) / a.height, (begin + r) % a.height, to); });
}
