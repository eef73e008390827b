// torch's parallel loop on plain threads, put before torch's own for ThreadSanitizer; see sanitize.py.
//
// A fresh thread for each range: creating and joining it are hand-overs that ThreadSanitizer knows.

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

extern "C" __attribute__((visibility("default"))) int32_t torch_parallel_for(int64_t begin, int64_t end, int64_t grain_size,
                                                                             void (*f)(int64_t, int64_t, void*), void* context) {
  // More than there are cores: ranges that are neighbours in memory shall really meet.
  constexpr int64_t MOST_THREADS = 5;
  const int64_t count = end - begin, grain = std::max<int64_t>(grain_size, 1);
  const int64_t threads = std::min((count + grain - 1) / grain, MOST_THREADS);
  std::vector<std::thread> running;
  for (int64_t i = 0; i < threads; ++i) {
    running.emplace_back(f, begin + count * i / threads, begin + count * (i + 1) / threads, context);
  }
  for (std::thread& thread : running) thread.join();
  return 0;
}
