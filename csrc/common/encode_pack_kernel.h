// Packing pixels: normalised, interleaved and with their border, as windows are read. For both directions of mask-mix-encode.
// Included inside a kernel file (each_isa.h), after common/encode.h.

// `count` elements that lie one after the other; factor and shift likewise, or null.
template <class S, class T>
inline void pack_dense(const T* from, int64_t count, const S* factor, const S* shift, S* to) {
  constexpr int64_t lanes = LANES<S>;
  const auto step = [&](int64_t i) {
    const Vector<S> values = load(from + i);
    store(to + i, factor ? values * load(factor + i) + load(shift + i) : values);
  };
  if (count < lanes) {
    for (int64_t i = 0; i < count; ++i) {
      const S value = load_one(from + i);
      to[i] = factor ? value * factor[i] + shift[i] : value;
    }
    return;
  }
  for (int64_t i = 0; i + lanes <= count; i += lanes) step(i);
  if (count % lanes) step(count - lanes);  // overlaps the one before, with the same values
}

// `count` pixels of one row, from pixel x on, to interleaved channels.
template <class S, class T>
__attribute__((noinline)) void pack_pixels(const Pixels<S>& pixels, int64_t channels, const T* row, int64_t x, int64_t count,
                                           S* to) {
  const S* factor = pixels.factor ? pixels.factor + x * channels : nullptr;
  const S* shift = pixels.factor ? pixels.shift + x * channels : nullptr;
  row += x * pixels.stride_x;
  if (pixels.stride_x == channels && (pixels.stride_c == 1 || channels == 1)) {
    pack_dense(row, count * channels, factor, shift, to);
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    const T* from = row + c * pixels.stride_c;
    int64_t i = 0;
    if (pixels.stride_x == 1) {
      for (; i + LANES<S> <= count; i += LANES<S>) {
        const Vector<S> values = load(from + i);
        for (int64_t lane = 0; lane < LANES<S>; ++lane) {
          const S value = values[lane];
          to[(i + lane) * channels + c] = factor ? value * factor[c] + shift[c] : value;
        }
      }
    }
    for (; i < count; ++i) {
      const S value = load_one(from + i * pixels.stride_x);
      to[i * channels + c] = factor ? value * factor[c] + shift[c] : value;
    }
  }
}

template <class S>
inline void fill_zero(S* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = S(0);
}

// Pixels [from, to) of row y of one image. What lies outside the image is 0.
template <class S, class T>
inline void pack_row(const Pixels<S>& pixels, const EncodeShape& shape, const T* image, int64_t y, int64_t from, int64_t to,
                     S* packed) {
  const int64_t channels = shape.image_channels;
  const bool is_outside = y < 0 || y >= shape.image_height;
  const int64_t first = from < 0 ? 0 : from, last = to > shape.image_width ? shape.image_width : to;
  if (is_outside || first >= last) {
    fill_zero(packed, (to - from) * channels);
    return;
  }
  if (first > from) fill_zero(packed, (first - from) * channels);
  pack_pixels(pixels, channels, image + y * pixels.stride_y, first, last - first, packed + (first - from) * channels);
  if (to > last) fill_zero(packed + (last - from) * channels, (to - last) * channels);
}

// Whether a group's positions see an input. `always`: its zone weights' gradients are wanted, which need it even at weight 0.
template <class S>
inline bool is_seen(const Band<S>& band, int64_t group, int64_t input, int64_t inputs, bool always) {
  return always || band.weights[group * inputs + input] != S(0);
}

// The smallest rectangle around all runs that see the input, as output rows and columns; empty where none does.
template <class S>
inline Box seen_box(const Band<S>& band, int64_t input, int64_t inputs, bool always) {
  Box box{band.end_row, INT64_MAX, band.first_row, 0};
  for (int64_t g = 0; g < band.group_count; ++g) {
    if (!is_seen(band, g, input, inputs, always)) continue;
    for (int64_t r = band.groups[g].begin; r < band.groups[g].end; ++r) {
      const Run& run = band.runs[r];
      box.top = run.y < box.top ? run.y : box.top;
      box.bottom = run.y >= box.bottom ? run.y + 1 : box.bottom;
      box.left = run.from < box.left ? run.from : box.left;
      box.right = run.to > box.right ? run.to : box.right;
    }
  }
  return box;
}

// Copies the image's rows under that rectangle, border included, to their places, and says where each run's windows are.
template <class S, class T>
void pack_rows(const EncodePlan<S>& plan, const Band<S>& band, const Box& box, const T* image, S* packed, Span* spans) {
  const EncodeShape& shape = plan.shape;
  const WindowLayout& windows = plan.windows;
  const int64_t first_y = band.first_row * shape.stride, last_y = (box.bottom - 1) * shape.stride + shape.kernel;
  const int64_t from = box.left * shape.stride, to = (box.right - 1) * shape.stride + shape.kernel;
  for (int64_t y = box.top * shape.stride; y < last_y; ++y) {
    S* row = packed + (y - first_y) * windows.row_stride + from * shape.image_channels;
    pack_row(plan.pixels, shape, image, y - shape.padding, from - shape.padding, to - shape.padding, row);
  }
  const int64_t runs = band.groups[band.group_count - 1].end;
  for (int64_t r = 0; r < runs; ++r) {
    const Run& run = band.runs[r];
    const int64_t row = run.y - band.first_row;
    spans[r] = {row * shape.stride * windows.row_stride + run.from * windows.step, row * shape.width + run.from, run.to - run.from};
  }
}

// Copies the windows of all runs that see the input, one after the other in the runs' order.
template <class S, class T>
void pack_patches(const EncodePlan<S>& plan, const Band<S>& band, int64_t input, bool always, const T* image, S* packed,
                  Span* spans) {
  const EncodeShape& shape = plan.shape;
  const int64_t stretch = shape.kernel * shape.image_channels;
  int64_t used = 0;
  for (int64_t g = 0; g < band.group_count; ++g) {
    if (!is_seen(band, g, input, shape.inputs, always)) continue;
    for (int64_t r = band.groups[g].begin; r < band.groups[g].end; ++r) {
      const Run& run = band.runs[r];
      spans[r] = {used, (run.y - band.first_row) * shape.width + run.from, run.to - run.from};
      for (int64_t x = run.from; x < run.to; ++x, used += plan.windows.step) {
        const int64_t from = x * shape.stride - shape.padding;
        for (int64_t k = 0; k < shape.kernel; ++k) {
          const int64_t y = run.y * shape.stride - shape.padding + k;
          pack_row(plan.pixels, shape, image, y, from, from + shape.kernel, packed + used + k * stretch);
        }
      }
    }
  }
}

// Packs what the band sees of an input and fills in a span for each run that sees it; false where none does.
template <class S, class T>
__attribute__((noinline)) bool pack_input_of(const EncodePlan<S>& plan, const Band<S>& band, int64_t input, bool always, S* packed,
                                             Span* spans) {
  const EncodeShape& shape = plan.shape;
  const Box box = seen_box(band, input, shape.inputs, always);
  if (box.top >= box.bottom) return false;
  const T* image = static_cast<const T*>(plan.pixels.data) + plan.index[band.b * shape.inputs + input] * plan.pixels.stride_u;
  if (shape.has_patches()) {
    pack_patches(plan, band, input, always, image, packed, spans);
  } else {
    pack_rows(plan, band, box, image, packed, spans);
  }
  return true;
}

template <class S>
bool pack_input(const EncodePlan<S>& plan, const Band<S>& band, int64_t input, bool always, S* packed, Span* spans) {
  if constexpr (sizeof(S) == 8) {
    return pack_input_of<S, double>(plan, band, input, always, packed, spans);
  } else {
    switch (plan.pixels.dtype) {
      case ScalarType::Byte:
        return pack_input_of<S, uint8_t>(plan, band, input, always, packed, spans);
      case ScalarType::BFloat16:
        return pack_input_of<S, bfloat16>(plan, band, input, always, packed, spans);
      case ScalarType::Half:
        return pack_input_of<S, float16>(plan, band, input, always, packed, spans);
      default:
        return pack_input_of<S, float>(plan, band, input, always, packed, spans);
    }
  }
}
