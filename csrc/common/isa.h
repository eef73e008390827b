// Which vector instructions this processor has. Kernels are compiled once for each set (each_isa.h) and chosen here at
// run time.
#pragma once

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#define MIXFAST_X86 1
#include <immintrin.h>
#else
#define MIXFAST_X86 0
#endif

namespace mixfast {

enum class Isa { portable, avx2, avx512 };

inline Isa detect_isa() {
#if MIXFAST_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  // torch's own variable holds for these kernels too.
  const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
  if (avx2 && limit && std::strcmp(limit, "default") == 0) return Isa::portable;
  if (avx512 && !(limit && std::strcmp(limit, "avx2") == 0)) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

inline Isa isa() {
  static const Isa chosen = detect_isa();
  return chosen;
}

}  // namespace mixfast

// Calls the build of `function` (a kernel or a kernel template with its arguments) for this processor.
#if MIXFAST_X86
#define MIXFAST_CALL(function, ...)                 \
  do {                                              \
    switch (::mixfast::isa()) {                     \
      case ::mixfast::Isa::avx512:                  \
        ::mixfast::avx512::function(__VA_ARGS__);   \
        break;                                      \
      case ::mixfast::Isa::avx2:                    \
        ::mixfast::avx2::function(__VA_ARGS__);     \
        break;                                      \
      default:                                      \
        ::mixfast::portable::function(__VA_ARGS__); \
    }                                               \
  } while (false)
#else
#define MIXFAST_CALL(function, ...) ::mixfast::portable::function(__VA_ARGS__)
#endif
