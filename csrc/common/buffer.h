// Uninitialised scratch memory, aligned to a cache line: a vector that straddles two lines costs two accesses.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace mixfast {

struct FreeBuffer {
  void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using Buffer = std::unique_ptr<T[], FreeBuffer>;

template <class T>
Buffer<T> make_buffer(int64_t count) {
  constexpr size_t LINE = 64;
  const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + LINE) / LINE * LINE;
  void* memory = std::aligned_alloc(LINE, bytes);
  if (!memory) throw std::bad_alloc();
  return Buffer<T>(static_cast<T*>(memory));
}

}  // namespace mixfast
