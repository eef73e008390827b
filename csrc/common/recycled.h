// Memory for large results, used again when a result is gone.
//
// glibc maps fresh memory for every large allocation and hands it back when that is freed; the system then clears each page
// as it is first touched, which takes longer than writing the result. An operator in a loop would pay for that every time.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace mixfast {

// Smaller ones are kept by glibc itself (its mmap threshold grows up to this).
constexpr int64_t RECYCLED_FROM_BYTES = 32 << 20;

class RecycledMemory {
 public:
  // Never destroyed: results may outlive everything else in the process.
  static RecycledMemory& instance() {
    static auto* const memory = new RecycledMemory;
    return *memory;
  }

  struct Block {
    void* memory;
    int64_t capacity;
  };

  // The smallest idle block that fits, unless it is much too large; else a new one.
  Block take(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      auto best = idle_.end();
      for (auto block = idle_.begin(); block != idle_.end(); ++block) {
        const bool fits = block->capacity >= bytes && block->capacity <= bytes + bytes / 4;
        if (fits && (best == idle_.end() || block->capacity < best->capacity)) best = block;
      }
      if (best != idle_.end()) {
        const Block block = *best;
        idle_.erase(best);
        idle_bytes_ -= block.capacity;
        return block;
      }
    }
    return fresh(bytes);
  }

  // Keeps the block for the next taker; those idle for longest make room.
  void give_back(const Block& block) noexcept {
    std::vector<Block> surplus;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      idle_.push_back(block);
      idle_bytes_ += block.capacity;
      while (idle_bytes_ > MOST_IDLE_BYTES) {
        surplus.push_back(idle_.front());
        idle_bytes_ -= idle_.front().capacity;
        idle_.erase(idle_.begin());
      }
    }
    for (const Block& old : surplus) std::free(old.memory);
  }

 private:
  static constexpr int64_t MOST_IDLE_BYTES = 256 << 20;
  static constexpr int64_t LARGE_PAGE = 2 << 20;

  std::mutex mutex_;
  std::vector<Block> idle_;  // longest idle first
  int64_t idle_bytes_ = 0;

  // On large pages where the system has them: 512 times fewer faults at the first touch.
  static Block fresh(int64_t bytes) {
    const int64_t capacity = (bytes + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    void* const memory = std::aligned_alloc(LARGE_PAGE, capacity);
    if (!memory) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    madvise(memory, capacity, MADV_HUGEPAGE);  // a wish: it may fail
#endif
    return {memory, capacity};
  }
};

}  // namespace mixfast
