// Sums over heads. `length` elements of each head, `step` apart from head to head; included inside a kernel file (each_isa.h).

// Heads by vectors whose sums stay in registers.
constexpr int MIXED_HEADS = 4;
constexpr int MIXED_VECTORS = MIXFAST_AVX512 ? 4 : 2;

// A matrix of heads: weight of head h in mixed head g. Transposed by its steps.
template <class S>
struct HeadWeights {
  const S* values;
  int64_t out_step, in_step;
  const S* bias;  // null: none

  const S* row(int64_t g) const { return values + g * out_step; }
};

// G mixed heads from `first` on, V vectors at `at`: write(g, at, vector).
template <class S, int G, int V, class Write>
[[gnu::always_inline]] inline void mix_block(const S* heads_in, int64_t step, int64_t heads, const HeadWeights<S>& weights,
                                             int64_t first, int64_t at, Write&& write) {
  Vector<S> sums[G][V];
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[g][v] = weights.bias ? broadcast(weights.bias[first + g]) : Vector<S>{};
  }
  for (int64_t h = 0; h < heads; ++h) {
    const S* from = heads_in + h * step + at;
    const S* weight = weights.values + first * weights.out_step + h * weights.in_step;
    Vector<S> values[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) values[v] = load(from + v * LANES<S>);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[g][v] += values[v] * weight[g * weights.out_step];
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) write(first + g, at + v * LANES<S>, sums[g][v]);
  }
}

template <class S, int G, class Write>
[[gnu::always_inline]] inline void mix_some(const S* heads_in, int64_t step, int64_t heads, const HeadWeights<S>& weights,
                                            int64_t first, int64_t length, Write&& write) {
  int64_t at = 0;
  for (; at + MIXED_VECTORS * LANES<S> <= length; at += MIXED_VECTORS * LANES<S>) {
    mix_block<S, G, MIXED_VECTORS>(heads_in, step, heads, weights, first, at, write);
  }
  for (; at < length; at += LANES<S>) mix_block<S, G, 1>(heads_in, step, heads, weights, first, at, write);
}

// write(g, i, sum over h of weight[g, h] * heads_in[h][i...] (+ bias[g])) for all mixed heads and vectors. `length` in whole vectors.
template <class S, class Write>
[[gnu::always_inline]] inline void mix_heads(const S* heads_in, int64_t step, int64_t heads, const HeadWeights<S>& weights,
                                             int64_t length, Write&& write) {
  int64_t first = 0;
  for (int64_t blocks = (heads + MIXED_HEADS - 1) / MIXED_HEADS; blocks > 0; --blocks) {
    switch ((heads - first + blocks - 1) / blocks) {  // blocks of about equal size
      case 4:
        mix_some<S, 4>(heads_in, step, heads, weights, first, length, write);
        first += 4;
        break;
      case 3:
        mix_some<S, 3>(heads_in, step, heads, weights, first, length, write);
        first += 3;
        break;
      case 2:
        mix_some<S, 2>(heads_in, step, heads, weights, first, length, write);
        first += 2;
        break;
      default:
        mix_some<S, 1>(heads_in, step, heads, weights, first, length, write);
        first += 1;
    }
  }
}

constexpr int PAIRED_HEADS = MIXFAST_AVX512 ? 4 : 3;

// sums[g, h] += <a[g], b[h]> for A heads of a by B heads of b.
template <class S, int A, int B>
__attribute__((noinline)) void add_products_block(const S* a, const S* b, int64_t step, int64_t length, double* sums,
                                                  int64_t sums_step) {
  Vector<S> products[A][B] = {};
  for (int64_t i = 0; i < length; i += LANES<S>) {
    Vector<S> right[B];
#pragma GCC unroll 4
    for (int h = 0; h < B; ++h) right[h] = load(b + h * step + i);
#pragma GCC unroll 4
    for (int g = 0; g < A; ++g) {
      const Vector<S> left = load(a + g * step + i);
#pragma GCC unroll 4
      for (int h = 0; h < B; ++h) products[g][h] += left * right[h];
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < A; ++g) {
#pragma GCC unroll 4
    for (int h = 0; h < B; ++h) sums[g * sums_step + h] += double(sum_lanes<S>(products[g][h]));
  }
}

template <class S, int A>
inline void add_products_row(const S* a, const S* b, int64_t step, int64_t heads, int64_t length, double* sums) {
  int64_t h = 0;
  for (; h + PAIRED_HEADS <= heads; h += PAIRED_HEADS) {
    add_products_block<S, A, PAIRED_HEADS>(a, b + h * step, step, length, sums + h, heads);
  }
  if (heads - h == 3) return add_products_block<S, A, 3>(a, b + h * step, step, length, sums + h, heads);
  if (heads - h == 2) return add_products_block<S, A, 2>(a, b + h * step, step, length, sums + h, heads);
  if (heads - h == 1) return add_products_block<S, A, 1>(a, b + h * step, step, length, sums + h, heads);
}

// sums[g, h] += sum over i of a[g][i] * b[h][i]; lanes are added in double precision.
template <class S>
inline void add_head_products(const S* a, const S* b, int64_t step, int64_t heads, int64_t length, double* sums) {
  int64_t g = 0;
  for (; g + PAIRED_HEADS <= heads; g += PAIRED_HEADS) {
    add_products_row<S, PAIRED_HEADS>(a + g * step, b, step, heads, length, sums + g * heads);
  }
  a += g * step;
  sums += g * heads;
  if (heads - g == 3) return add_products_row<S, 3>(a, b, step, heads, length, sums);
  if (heads - g == 2) return add_products_row<S, 2>(a, b, step, heads, length, sums);
  if (heads - g == 1) return add_products_row<S, 1>(a, b, step, heads, length, sums);
}

// sums[g] += sum over i of a[g][i].
template <class S>
inline void add_head_sums(const S* a, int64_t step, int64_t heads, int64_t length, double* sums) {
  for (int64_t g = 0; g < heads; ++g) {
    Vector<S> total = {};
    for (int64_t i = 0; i < length; i += LANES<S>) total += load(a + g * step + i);
    sums[g] += double(sum_lanes<S>(total));
  }
}
