// What the loops of class_attention are given.
#pragma once

#include "common/buffer.h"
#include "common/tensors.h"

namespace mixfast {
namespace {

// Tokens taken at a time: with their gradients and one head's rows they stay in the first cache. A multiple of every vector's lanes.
constexpr int64_t BLOCK = 16;

inline int64_t whole_blocks(int64_t count) { return (count + BLOCK - 1) / BLOCK * BLOCK; }

// Sets differ by their class token; where each has a source of its own, by their tokens too: that many groups of sets then, else 1.
struct AttentionSizes {
  int64_t count, width, sets, heads, groups;

  int64_t stride() const { return whole_blocks(width); }  // of rows in work memory; zeros follow the last element
  int64_t queries() const { return sets * heads; }
  int64_t group_queries() const { return queries() / groups; }
  int64_t group_sets() const { return sets / groups; }
  AttentionSizes of_group() const { return {count, width, group_sets(), heads, 1}; }
};

// What is added to one sample's tokens before the norm.
template <class S>
struct SampleSource {
  const S* rows = nullptr;  // [M, stride], or null: nothing is
  int64_t inputs = 0;
  const S* inside = nullptr;  // [M] weights of the rows in the two zones, or null: group i gets row i
  const S* outside = nullptr;
  const S* covered = nullptr;  // [count] shares of the tokens
  const S* uncovered = nullptr;
};

// One sample's rows of each set's heads, [sets, heads, width], wherever they lie.
template <class S>
struct SetRows {
  const S* first = nullptr;
  int64_t set_step = 0, head_step = 0;

  SetRows from_set(int64_t set) const { return {first + set * set_step, set_step, head_step}; }
};

// One sample's arguments.
template <class T>
struct AttentionSample {
  using S = sum_t<T>;
  const T* tokens;
  int64_t token_step;
  const S* class_tokens;  // [sets, width]
  int64_t class_step;
  SetRows<S> query;
  SampleSource<S> source = {};
  SetRows<S> grad = {};  // of the result; backward only

  // What one group of sets takes of them, for the forward pass.
  AttentionSample of_group(const AttentionSizes& sizes, int64_t group) const {
    AttentionSample part = *this;
    part.class_tokens += group * sizes.group_sets() * class_step;
    part.query = query.from_set(group * sizes.group_sets());
    if (source.rows && !source.inside) part.source.rows += group * sizes.stride();
    return part;
  }
};

// Where one sample's gradients go.
template <class T>
struct AttentionGradients {
  using S = sum_t<T>;
  T* tokens;        // [count, width]
  S* class_tokens;  // [sets, width]
  S* query;         // [sets, heads, width]
  S* source;        // [groups, stride]; with zones [2, stride]: inside, outside. Zeros at first. Null without a source
  bool stream;
};

// A thread's work memory: rows of `stride` elements, zeros at first, which those behind a token's last element stay.
template <class S>
class AttentionSpace {
 public:
  explicit AttentionSpace(const AttentionSizes& sizes)
      : mixed(rows(sizes, 2)),
        keys(rows(sizes, whole_blocks(sizes.count))),
        key_scales(zeros(whole_blocks(sizes.count))),
        class_keys(rows(sizes, sizes.sets + 3)),
        class_scales(zeros(sizes.sets)),
        queries(rows(sizes, 2 * sizes.queries())),
        query_sums(rows(sizes, sizes.queries())),
        products(zeros(2 * sizes.queries() * whole_blocks(sizes.count))),
        class_products(zeros(2 * 4 * sizes.heads)),
        scores(zeros(whole_blocks(sizes.count))),
        along(zeros(whole_blocks(sizes.count))),
        grads(rows(sizes, BLOCK + (sizes.groups > 1 ? whole_blocks(sizes.count) : 0))) {}

  Buffer<S> mixed;       // the source inside, outside
  Buffer<S> keys;        // tokens without their mean, as one group sees them
  Buffer<S> key_scales;  // one over their standard deviations
  Buffer<S> class_keys;  // class tokens likewise, and three rows more: products take four
  Buffer<S> class_scales;
  Buffer<S> queries;     // without means; backward, group by group: queries, then gradients of their results
  Buffer<S> query_sums;  // forward: results; backward: gradients of queries
  Buffer<S> products;    // of queries with keys
  Buffer<S> class_products;  // with one class token, four places each
  Buffer<S> scores;          // the rest: backward only. Of one query
  Buffer<S> along;           // weights of the keys in their tokens' gradients
  Buffer<S> grads;           // of a block's tokens; where there are groups also of all tokens, over the groups

 private:
  static Buffer<S> zeros(int64_t count) {
    Buffer<S> buffer = make_buffer<S>(count);
    std::fill_n(buffer.get(), count, S(0));
    return buffer;
  }
  static Buffer<S> rows(const AttentionSizes& sizes, int64_t count) { return zeros(count * sizes.stride()); }
};

}  // namespace
}  // namespace mixfast
