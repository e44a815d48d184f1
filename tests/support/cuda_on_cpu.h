// What CUDA source that TVM generates needs to be C++ for `cuda_on_cpu.cpp`.
#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __launch_bounds__(threads)
#define __shared__ static
#define alignas(bytes)
#define uint unsigned int
#define ushort unsigned short

struct dim3 { unsigned x, y, z; };
struct float4 { float x, y, z, w; };
struct uint4 { unsigned x, y, z, w; };
typedef _Float16 half;

extern "C" {
extern dim3 threadIdx, blockIdx, blockDim, gridDim;
void emulated_barrier();
uint32_t emulated_shuffle(uint32_t value, int lane_mask);
}

#define __syncthreads emulated_barrier

static inline float __shfl_xor_sync(unsigned, float value, int lane_mask, int) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = emulated_shuffle(bits, lane_mask);
  memcpy(&value, &bits, 4);
  return value;
}

template <typename T>
static inline T max(T a, T b) { return a > b || b != b ? a : b; }
template <typename T>
static inline T min(T a, T b) { return a < b || b != b ? a : b; }
