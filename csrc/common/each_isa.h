// Includes MIXFAST_KERNEL once for each instruction set, after simd.h, in namespaces mixfast::portable, ::avx2 and
// ::avx512.
//
// The kernel file holds the loops, without includes or namespaces of its own: what it needs is included before this
// file, where no instruction set is switched on. (Standard functions compiled for AVX-512 could otherwise be picked by
// the linker for everyone.) Its names stay within its operator (unnamed namespace), so two operators may both have a
// `forward`. It may ask MIXFAST_VECTOR_BYTES, MIXFAST_AVX2 and MIXFAST_AVX512 what it is compiled for.
#ifndef MIXFAST_KERNEL
#error "define MIXFAST_KERNEL, the kernel file, before including each_isa.h"
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/elements.h"
#include "common/isa.h"

#if defined(__clang__)
#define MIXFAST_TARGET_PUSH(features) MIXFAST_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define MIXFAST_TARGET_POP MIXFAST_PRAGMA(clang attribute pop)
#else
#define MIXFAST_TARGET_PUSH(features) MIXFAST_PRAGMA(GCC push_options) MIXFAST_PRAGMA(GCC target(features))
#define MIXFAST_TARGET_POP MIXFAST_PRAGMA(GCC pop_options)
#endif
#define MIXFAST_PRAGMA(text) _Pragma(#text)

#define MIXFAST_VECTOR_BYTES 16
#define MIXFAST_AVX2 0
#define MIXFAST_AVX512 0
namespace mixfast::portable {
namespace {
#include "common/simd.h"
#include MIXFAST_KERNEL
}  // namespace
}  // namespace mixfast::portable
#undef MIXFAST_VECTOR_BYTES
#undef MIXFAST_AVX2
#undef MIXFAST_AVX512

#if MIXFAST_X86

#define MIXFAST_VECTOR_BYTES 32
#define MIXFAST_AVX2 1
#define MIXFAST_AVX512 0
MIXFAST_TARGET_PUSH("avx2,fma,f16c,bmi,bmi2,lzcnt")
namespace mixfast::avx2 {
namespace {
#include "common/simd.h"
#include MIXFAST_KERNEL
}  // namespace
}  // namespace mixfast::avx2
MIXFAST_TARGET_POP
#undef MIXFAST_VECTOR_BYTES
#undef MIXFAST_AVX512

#define MIXFAST_VECTOR_BYTES 64
#define MIXFAST_AVX512 1
MIXFAST_TARGET_PUSH("avx2,fma,f16c,bmi,bmi2,lzcnt,avx512f,avx512bw,avx512dq,avx512vl")
namespace mixfast::avx512 {
namespace {
#include "common/simd.h"
#include MIXFAST_KERNEL
}  // namespace
}  // namespace mixfast::avx512
MIXFAST_TARGET_POP
#undef MIXFAST_VECTOR_BYTES
#undef MIXFAST_AVX2
#undef MIXFAST_AVX512

#endif
