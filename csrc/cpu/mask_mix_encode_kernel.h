// Encodes one band of rows, for each instruction set.
#include "common/encode_pack_kernel.h"
#include "common/encode_product_kernel.h"

template <class S>
bool is_first_seen(const Band<S>& band, int64_t group, int64_t input, int64_t inputs) {
  for (int64_t i = 0; i < input; ++i) {
    if (is_seen(band, group, i, inputs, false)) return false;
  }
  return true;
}

// Patches of a whole group form one matrix: full tiles however short its runs are.
template <class S>
Span join_spans(const Span* spans, int64_t count, int32_t* where) {
  Span joined{spans[0].pixels, 0, 0};
  for (int64_t s = 0; s < count; ++s) {
    for (int64_t p = 0; p < spans[s].count; ++p) where[joined.count++] = int32_t(spans[s].first + p);
  }
  return joined;
}

// Adds one input's share to the positions that see it.
template <class S>
void encode_input(const EncodePlan<S>& plan, const Band<S>& band, int64_t input, const EncodeBuffers<S>& memory) {
  const EncodeShape& shape = plan.shape;
  if (!pack_input(plan, band, input, false, memory.packed, memory.spans)) return;
  Product<S> product{plan.windows, memory.packed, plan.weight_of(input), shape.channels, plan.bias_of(input),
                     S(0),         nullptr,       memory.result,         shape.channels, nullptr};
  for (int64_t g = 0; g < band.group_count; ++g) {
    if (!is_seen(band, g, input, shape.inputs, false)) continue;
    product.factor = plan.scale * band.weights[g * shape.inputs + input];
    product.addend = is_first_seen(band, g, input, shape.inputs) ? memory.position : memory.result;
    const Span* spans = memory.spans + band.groups[g].begin;
    const int64_t count = band.groups[g].end - band.groups[g].begin;
    if (shape.has_patches()) {
      product.where = memory.where;
      const Span joined = join_spans<S>(spans, count, memory.where);
      multiply(product, &joined, 1);
    } else {
      multiply(product, spans, count);
    }
  }
}

// Positions that see no input at all.
template <class S>
void encode_unseen(const EncodePlan<S>& plan, const Band<S>& band, const EncodeBuffers<S>& memory) {
  const EncodeShape& shape = plan.shape;
  for (int64_t g = 0; g < band.group_count; ++g) {
    if (!is_first_seen(band, g, shape.inputs, shape.inputs)) continue;
    for (int64_t r = band.groups[g].begin; r < band.groups[g].end; ++r) {
      const Run& run = band.runs[r];
      const int64_t first = ((run.y - band.first_row) * shape.width + run.from) * shape.channels;
      const int64_t last = first + (run.to - run.from) * shape.channels;
      for (int64_t i = first; i < last; ++i) memory.result[i] = memory.position ? memory.position[i] : S(0);
    }
  }
}

template <class S>
void encode_band(const EncodePlan<S>& plan, const Band<S>& band, const EncodeBuffers<S>& memory) {
  for (int64_t input = 0; input < plan.shape.inputs; ++input) encode_input(plan, band, input, memory);
  encode_unseen(plan, band, memory);
}

// Rounds results to the output's type.
template <class T>
void round_results(const float* from, int64_t count, T* to) {
  constexpr int64_t lanes = LANES<float>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, load(from + i));
  if (i < count) store_first(to + i, load_first(from + i, count - i), count - i);
}
