// class_attention and its backward pass on the CPU; the mathematics is in kernels/mixfast_kernels/class_attention.py.
//
// Floor: forward reads the tokens once, backward once more and writes their gradient once; 4 multiply-adds an element and query
// forward, 10 backward: 64 x 64 tokens of 384 floats, 12 heads: 6.3 MB and 76 MFLOP, 19 MB and 189 MFLOP. On a CPU the arithmetic
// decides. A sample's tokens, without their means, stay in the second cache, while queries meet them in blocks that stay in the first.
//
// Deterministic, also across thread counts: forward a group of sets is one thread's, backward a sample is, and sums over samples are
// taken in their order.

#include <optional>

#include "common/coverage.h"
#include "common/streaming.h"
#include "cpu/class_attention_arguments.h"

#define MIXFAST_KERNEL "cpu/class_attention_kernel.h"
#include "common/each_isa.h"

namespace mixfast {
namespace {

struct Arguments {
  Tensor tokens, class_token, query;
  OptionalTensor source, inside, outside, box, bitmap;
  std::vector<int64_t> grid;
  double eps;
};

void check_arguments(const Arguments& a) {
  STD_TORCH_CHECK(a.tokens.dim() == 3, "tokens must be [B, N, d], got ", a.tokens.dim(), " dimensions");
  const int64_t batch = a.tokens.size(0), width = a.tokens.size(2);
  STD_TORCH_CHECK(a.class_token.dim() == 3 && a.class_token.size(0) == batch && a.class_token.size(1) > 0 &&
                      a.class_token.size(2) == width && width > 0,
                  "class_token must be [B, S, d] with B = ", batch, ", S at least 1 and d = ", width, " at least 1");
  const int64_t sets = a.class_token.size(1);
  STD_TORCH_CHECK(a.query.dim() == 4 && a.query.size(0) == batch && a.query.size(1) == sets && a.query.size(2) > 0 &&
                      a.query.size(3) == width,
                  "query must be [B, S, h, d] with B = ", batch, ", S = ", sets, " and d = ", width);
  STD_TORCH_CHECK(!a.source || (a.source->dim() == 2 && a.source->size(1) == width), "source must be [M, d] with d = ", width);
  STD_TORCH_CHECK(a.inside.has_value() == a.outside.has_value() && (a.inside || (!a.box && !a.bitmap)),
                  "inside and outside must be given together, and with them alone a box or a bitmap");
  if (!a.inside) {
    STD_TORCH_CHECK(!a.source || a.source->size(0) == sets, "source must have a row for each of the ", sets, " sets");
    return;
  }
  check_zone(*a.inside, *a.outside, a.box, a.bitmap, batch, a.grid);
  STD_TORCH_CHECK(a.grid[0] * a.grid[1] == a.tokens.size(1), "grid must have N = ", a.tokens.size(1), " positions");
  STD_TORCH_CHECK(sets == 1, "class_token must be [B, 1, d] with a mix, got S = ", sets);
  STD_TORCH_CHECK(a.source && a.source->size(0) == a.inside->size(1), "source must have a row for each input of the mix");
}

AttentionSizes attention_sizes(const Arguments& a) {
  const int64_t sets = a.class_token.size(1);
  return {a.tokens.size(1), a.tokens.size(2), sets, a.query.size(2), a.source && !a.inside ? sets : 1};
}

// In the dtype of sums, channels side by side; the other strides may be any.
template <class S>
Tensor in_sums_dtype(const Tensor& tensor) {
  const ScalarType dtype = sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float;
  return tensor.scalar_type() == dtype ? with_dense_channels(tensor) : as_contiguous_in(tensor, dtype);
}

template <class S>
SetRows<S> set_rows(const Tensor& rows_BSHD, int64_t b) {
  return {data<S>(rows_BSHD) + b * rows_BSHD.stride(0), rows_BSHD.stride(1), rows_BSHD.stride(2)};
}

// All arguments as the loops take them.
template <class T>
class Batch {
 public:
  using S = sum_t<T>;
  const AttentionSizes sizes;
  const int64_t count;
  std::optional<Zone<S>> zone;

  explicit Batch(const Arguments& a)
      : sizes(attention_sizes(a)),
        count(a.tokens.size(0)),
        tokens_(with_dense_channels(a.tokens)),
        class_tokens_(in_sums_dtype<S>(a.class_token)),
        query_(in_sums_dtype<S>(a.query)) {
    if (a.inside) zone.emplace(*a.inside, *a.outside, a.box, a.bitmap, a.grid[0], a.grid[1]);
    if (!a.source) return;
    inputs_ = a.source->size(0);
    const std::vector<S> values = floats_of<S>(*a.source);
    source_.assign(inputs_ * sizes.stride(), S(0));
    for (int64_t i = 0; i < inputs_; ++i) std::copy_n(values.data() + i * sizes.width, sizes.width, source_row(i));
  }

  S* source_row(int64_t i) { return source_.data() + i * sizes.stride(); }
  bool has_source() const { return !source_.empty(); }
  // Rows of one sample's gradient of what is added to its tokens.
  int64_t source_sums() const { return !has_source() ? 0 : zone ? 2 : sizes.groups; }

  // shares: 2 * whole_blocks(sizes.count).
  AttentionSample<T> sample(int64_t b, S* shares) const {
    AttentionSample<T> sample{data<T>(tokens_) + b * tokens_.stride(0), tokens_.stride(1),
                              data<S>(class_tokens_) + b * class_tokens_.stride(0), class_tokens_.stride(1),
                              set_rows<S>(query_, b)};
    if (has_source()) sample.source.rows = source_.data();
    if (!zone) return sample;
    S *covered = shares, *uncovered = shares + whole_blocks(sizes.count);
    for (int64_t y = 0; y < zone->height; ++y) zone->coverage(b, y, covered + y * zone->width);
    for (int64_t n = 0; n < sizes.count; ++n) uncovered[n] = 1 - covered[n];
    sample.source = {source_.data(), inputs_, zone->inside_of(b), zone->outside_of(b), covered, uncovered};
    return sample;
  }

  // Calls f(number, work memory, memory for `sample`'s shares) for 0..tasks-1, each of these sizes, on all threads.
  template <class F>
  void for_each_task(int64_t tasks, const AttentionSizes& each, const F& f) const {
    const int64_t worth = (each.count + 1) * each.width * each.queries();
    parallel_for(tasks, worth, [&](int64_t begin, int64_t end) {
      const AttentionSpace<S> space(each);
      const Buffer<S> shares = make_buffer<S>(2 * whole_blocks(each.count));
      for (int64_t number = begin; number < end; ++number) f(number, space, shares.get());
    });
  }

 private:
  Tensor tokens_, class_tokens_, query_;
  int64_t inputs_ = 0;
  std::vector<S> source_;  // [M, stride]
};

Tensor class_attention(Tensor tokens, Tensor class_token, Tensor query, OptionalTensor source, OptionalTensor inside,
                       OptionalTensor outside, OptionalTensor box, OptionalTensor bitmap, std::vector<int64_t> grid, double eps) {
  const Arguments arguments{tokens, class_token, query, source, inside, outside, box, bitmap, grid, eps};
  check_arguments(arguments);
  const Tensor result = empty(sizes_of(query), sum_dtype(tokens.scalar_type()));
  call_for_float(tokens.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    const Batch<T> batch(arguments);
    // Groups share no work, and a single sample's then take a thread each.
    const AttentionSizes group = batch.sizes.of_group();
    const int64_t groups = batch.sizes.groups, step = group.queries() * group.width;
    batch.for_each_task(batch.count * groups, group, [&](int64_t number, const auto& space, S* shares) {
      const AttentionSample<T> sample = batch.sample(number / groups, shares).of_group(batch.sizes, number % groups);
      MIXFAST_CALL(forward_group<T>, group, sample, S(eps), space, mutable_data<S>(result) + number * step);
    });
  });
  return result;
}

// From each sample's sums to the gradient of the sources [M, d].
template <class T, class S = sum_t<T>>
Tensor source_gradient(const Batch<T>& batch, const std::vector<S>& sums, int64_t inputs) {
  const int64_t width = batch.sizes.width, stride = batch.sizes.stride(), rows = batch.source_sums();
  const Tensor result = empty({inputs, width}, sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float);
  S* grads = mutable_data<S>(result);
  std::fill_n(grads, inputs * width, S(0));
  for (int64_t b = 0; b < batch.count; ++b) {
    const S* of_sample = sums.data() + b * rows * stride;
    for (int64_t i = 0; i < inputs; ++i) {
      S* to = grads + i * width;
      if (!batch.zone) {
        for (int64_t c = 0; c < width; ++c) to[c] += of_sample[i * stride + c];
        continue;
      }
      const S inside = batch.zone->inside_of(b)[i], outside = batch.zone->outside_of(b)[i];
      for (int64_t c = 0; c < width; ++c) to[c] += inside * of_sample[c] + outside * of_sample[stride + c];
    }
  }
  return result;
}

// Likewise to the gradient of the sources' weights in one zone, [B, M]; row: that zone's.
template <class T, class S = sum_t<T>>
Tensor zone_gradient(Batch<T>& batch, const std::vector<S>& sums, int64_t row) {
  const int64_t inputs = batch.zone->inputs, stride = batch.sizes.stride();
  const Tensor result = empty({batch.count, inputs}, sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float);
  for (int64_t b = 0; b < batch.count; ++b) {
    const S* of_zone = sums.data() + (2 * b + row) * stride;
    for (int64_t i = 0; i < inputs; ++i) {
      mutable_data<S>(result)[b * inputs + i] = std::inner_product(of_zone, of_zone + stride, batch.source_row(i), S(0));
    }
  }
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> class_attention_backward(
    Tensor grad, Tensor tokens, Tensor class_token, Tensor query, OptionalTensor source, OptionalTensor inside, OptionalTensor outside,
    OptionalTensor box, OptionalTensor bitmap, std::vector<int64_t> grid, double eps, bool zones) {
  const Arguments arguments{tokens, class_token, query, source, inside, outside, box, bitmap, grid, eps};
  check_arguments(arguments);
  STD_TORCH_CHECK(sizes_of(grad) == sizes_of(query), "grad must have the shape of query");
  const ScalarType sums = sum_dtype(tokens.scalar_type());
  const Tensor grad_tokens = empty(sizes_of(tokens), tokens.scalar_type()), grad_class = empty(sizes_of(class_token), sums),
               grad_query = empty(sizes_of(query), sums);
  const ScalarType zone_dtype = inside ? inside->scalar_type() : sums;
  Tensor grad_source = empty({0}, sums), grad_inside = empty({0}, zone_dtype), grad_outside = empty({0}, zone_dtype);
  call_for_float(tokens.scalar_type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using S = sum_t<T>;
    Batch<T> batch(arguments);
    const AttentionSizes& sizes = batch.sizes;
    const Tensor grads = in_sums_dtype<S>(grad);
    const int64_t source_step = batch.source_sums() * sizes.stride(), class_step = sizes.sets * sizes.width,
                  query_step = sizes.queries() * sizes.width, token_step = sizes.count * sizes.width;
    std::vector<S> source_sums(batch.count * source_step);
    const bool stream = tokens.numel() * int64_t(sizeof(T)) >= STREAM_FROM_BYTES;
    batch.for_each_task(batch.count, sizes, [&](int64_t b, const auto& space, S* shares) {
      AttentionSample<T> sample = batch.sample(b, shares);
      sample.grad = set_rows<S>(grads, b);
      const AttentionGradients<T> out{mutable_data<T>(grad_tokens) + b * token_step, mutable_data<S>(grad_class) + b * class_step,
                                      mutable_data<S>(grad_query) + b * query_step,
                                      source_step > 0 ? source_sums.data() + b * source_step : nullptr, stream};
      MIXFAST_CALL(backward_sample<T>, sizes, sample, S(eps), space, out);
    });
    if (source) grad_source = as_contiguous_in(source_gradient(batch, source_sums, source->size(0)), source->scalar_type());
    if (!inside || !zones) return;
    grad_inside = as_contiguous_in(zone_gradient(batch, source_sums, 0), zone_dtype);
    grad_outside = as_contiguous_in(zone_gradient(batch, source_sums, 1), zone_dtype);
  });
  return {grad_tokens, as_contiguous_in(grad_class, class_token.scalar_type()), as_contiguous_in(grad_query, query.scalar_type()),
          grad_source, grad_inside, grad_outside};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mixfast, CPU, m) {
  m.impl("class_attention", TORCH_BOX(&class_attention));
  m.impl("class_attention_backward", TORCH_BOX(&class_attention_backward));
}

}  // namespace mixfast
