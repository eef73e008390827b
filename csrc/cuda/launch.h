// Kernels as functions of (block, arguments), made of phases: one body for the GPU and, compiled by g++, for the host.
//
// A phase is what all threads of a block do between two barriers. On a GPU each thread runs it and waits; on the host one
// thread runs it for all of them, one after the other. So the tests walk the whole grid of the very code that ships: its
// index arithmetic, its use of shared memory and its bounds. Within a phase no thread may read what another one writes:
// every other block on the host runs its threads backwards, so that whoever does gets caught.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

#include "common/tensors.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <torch/csrc/stable/macros.h>
#define MIXFAST_DEVICE __device__ __forceinline__
#define MIXFAST_BOTH __host__ __device__ __forceinline__
#define MIXFAST_UNROLL _Pragma("unroll")
#define MIXFAST_KEY CUDA
#else
#define MIXFAST_DEVICE inline
#define MIXFAST_BOTH inline
#define MIXFAST_UNROLL
#define MIXFAST_KEY CPU
#endif

// What launches ask too is MIXFAST_BOTH. nvcc says nothing of a MIXFAST_DEVICE function that host code calls in a template:
// there it is a call of exit().

namespace mixfast {

// Shared memory that a block may use without asking the driver for more.
constexpr int64_t SHARED_BYTES = 48 * 1024;

// Elements of type T in shared memory take this many bytes: every array there begins at a multiple of 16.
template <class T>
int64_t shared_size(int64_t count) {
  return (count * int64_t(sizeof(T)) + 15) / 16 * 16;
}

class Block {
 public:
  int64_t index;

#ifdef __CUDACC__
  template <class F>
  MIXFAST_DEVICE void phase(const F& f) {
    f(int(threadIdx.x));
    __syncthreads();
  }
#else
  int threads;

  template <class F>
  void phase(const F& f) {
    for (int i = 0; i < threads; ++i) f(index % 2 ? threads - 1 - i : i);
  }
#endif

  // The next `count` elements of shared memory. The launch asked for shared_size<T>(count) bytes for them.
  template <class T>
  MIXFAST_DEVICE T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(shared);
    shared += (count * int64_t(sizeof(T)) + 15) / 16 * 16;
    return taken;
  }

  char* shared;
};

// What each thread keeps in its registers from one phase to the next.
template <class T, int THREADS>
class PerThread {
 public:
#ifdef __CUDACC__
  MIXFAST_DEVICE T& operator[](int) { return value_; }

 private:
  T value_{};
#else
  T& operator[](int thread) { return values_[thread]; }

 private:
  T values_[THREADS]{};
#endif
};

#ifdef __CUDACC__

template <class Body>
__global__ void __launch_bounds__(Body::THREADS, 2) run_body(const __grid_constant__ Body body) {
  extern __shared__ __align__(16) char shared[];
  Block block{int64_t(blockIdx.x), shared};
  body(block);
}

#endif

// Runs body(block) for each of `blocks` blocks of Body::THREADS threads, on the current stream of the device that `on` is on.
template <class Body>
void launch(const Tensor& on, int64_t blocks, int64_t shared_bytes, const Body& body) {
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "too many blocks for one launch: ", blocks);
  STD_TORCH_CHECK(shared_bytes <= SHARED_BYTES, "too much shared memory for one block: ", shared_bytes, " bytes");
  if (blocks == 0) return;
#ifdef __CUDACC__
  void* stream;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
  run_body<Body><<<unsigned(blocks), Body::THREADS, shared_bytes, static_cast<cudaStream_t>(stream)>>>(body);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
#else
  (void)on;
  for (int64_t index = 0; index < blocks; ++index) {
    // Of exactly the size asked for, and no number anywhere: sanitizers see what is read beyond it, tests what was never written.
    const std::unique_ptr<char[]> shared(new char[shared_bytes]);
    std::memset(shared.get(), 0xff, shared_bytes);
    Block block{index, Body::THREADS, shared.get()};
    body(block);
  }
#endif
}

}  // namespace mixfast
