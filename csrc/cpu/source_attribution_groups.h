// Which source each token shows: a token then meets the matrices of those sources only.
#pragma once

#include <vector>

#include "common/zone.h"

namespace mixfast {

// Tokens that one source alone shows, or (end_source - first_source > 1) that several may show: begin .. end in the sorted order.
struct TokenChunk {
  int64_t first_source, end_source, begin, end;
};

// Tokens sorted into groups: group i < M holds those that source i alone shows, group M the others, which meet all M matrices.
template <class W>
class TokenGroups {
 public:
  std::vector<int64_t> tokens;  // b * positions + n, group after group, ascending inside each
  std::vector<W> covered;       // the share of each of those tokens that lies inside the zone

  explicit TokenGroups(const Zone<W>& zone) : zone_(zone), starts_(zone.inputs + 2) {
    const int64_t positions = zone.height * zone.width;
    std::vector<W> shares(zone.batch * positions);
    std::vector<int32_t> groups(shares.size());
    for (int64_t b = 0; b < zone.batch; ++b) find_groups(b, shares.data() + b * positions, groups.data() + b * positions);
    sort(shares, groups);
  }

  // The weights of `source` for the tokens of a chunk. Returns whether all are 1.
  bool weights(const TokenChunk& chunk, int64_t source, W* weights) const {
    const int64_t positions = zone_.height * zone_.width;
    bool all_one = true;
    for (int64_t i = chunk.begin; i < chunk.end; ++i) {
      const int64_t b = tokens[i] / positions;
      const W weight = covered[i] * zone_.inside_of(b)[source] + (1 - covered[i]) * zone_.outside_of(b)[source];
      weights[i - chunk.begin] = weight;
      all_one = all_one && weight == 1;
    }
    return all_one;
  }

  // Products of a token with a matrix, over all tokens.
  int64_t products() const { return products_before(int64_t(tokens.size())); }

  // Calls f(chunk) for chunks of at most `rows` tokens; worker k of `workers` gets an equal share of the products.
  template <class F>
  void for_each_chunk(int64_t k, int64_t workers, int64_t rows, F&& f) const {
    const int64_t from = token_at(products() * k / workers), to = token_at(products() * (k + 1) / workers);
    for (int64_t group = 0; group <= zone_.inputs; ++group) {
      const int64_t begin = std::max(from, starts_[group]), end = std::min(to, starts_[group + 1]);
      const int64_t pieces = (end - begin + rows - 1) / rows;
      for (int64_t i = 0; i < pieces; ++i) {
        const int64_t first = begin + (end - begin) * i / pieces, last = begin + (end - begin) * (i + 1) / pieces;
        const bool mixed = group == zone_.inputs;
        f(TokenChunk{mixed ? 0 : group, mixed ? zone_.inputs : group + 1, first, last});
      }
    }
  }

 private:
  const Zone<W>& zone_;
  std::vector<int64_t> starts_;  // group g is starts_[g] .. starts_[g + 1]

  int64_t group_of(const W* weights) const {
    const int64_t only = only_visible(weights, zone_.inputs);
    return only < 0 ? zone_.inputs : only;
  }

  void find_groups(int64_t b, W* shares, int32_t* groups) const {
    const int64_t inside = group_of(zone_.inside_of(b)), outside = group_of(zone_.outside_of(b));
    const int64_t either = inside == outside ? inside : zone_.inputs;
    for (int64_t y = 0; y < zone_.height; ++y) zone_.coverage(b, y, shares + y * zone_.width);
    for (int64_t n = 0; n < zone_.height * zone_.width; ++n) {
      groups[n] = int32_t(shares[n] == 0 ? outside : shares[n] == 1 ? inside : either);
    }
  }

  // A counting sort.
  void sort(const std::vector<W>& shares, const std::vector<int32_t>& groups) {
    for (const int32_t group : groups) ++starts_[group + 1];
    for (int64_t g = 0; g <= zone_.inputs; ++g) starts_[g + 1] += starts_[g];
    std::vector<int64_t> next(starts_);
    tokens.resize(groups.size());
    covered.resize(groups.size());
    for (size_t token = 0; token < groups.size(); ++token) {
      const int64_t place = next[groups[token]]++;
      tokens[place] = int64_t(token);
      covered[place] = shares[token];
    }
  }

  // The mixed tokens come last and take a product a source.
  int64_t products_before(int64_t token) const {
    const int64_t single = std::min(token, starts_[zone_.inputs]);
    return single + (token - single) * zone_.inputs;
  }

  int64_t token_at(int64_t product) const {
    const int64_t single = std::min(product, starts_[zone_.inputs]);
    return single + (product - single) / std::max<int64_t>(zone_.inputs, 1);
  }
};

}  // namespace mixfast
