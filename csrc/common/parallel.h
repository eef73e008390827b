// Loops over torch's own thread pool.
#pragma once

#include <algorithm>
#include <torch/csrc/stable/ops.h>

namespace mixfast {

// Below this a thread costs more to wake than it saves.
constexpr int64_t BYTES_PER_TASK = 64 * 1024;

// Runs f(begin, end) over disjoint ranges of 0..count. `bytes_each`: what one iteration roughly reads and writes (or as
// many bytes as its arithmetic is worth). f must not throw: check arguments before.
template <class F>
void parallel_for(int64_t count, int64_t bytes_each, const F& f) {
  const int64_t grain = std::max<int64_t>(1, BYTES_PER_TASK / std::max<int64_t>(bytes_each, 1));
  if (count <= 0) return;
  if (count <= grain) return f(int64_t(0), count);
  torch::stable::parallel_for(0, count, grain, f);
}

}  // namespace mixfast
