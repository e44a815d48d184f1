// Stands in for NVIDIA's driver and CUDA runtime: "device" memory is the host's, and kernels are C++ functions that are
// run on the CPU, thread by thread.  Built as libcuda.so.1 and libcudart.so.13, it has what TVM's runtime calls.
//
// The threads of a block are fibres of one thread of the machine.  A fibre runs until it waits at a barrier or in a
// shuffle.  Which comes first changes from block to block, so that code with a missing barrier gives different results.
// A barrier that not all threads of a block come to, which is undefined on a GPU, ends the process.

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <dlfcn.h>
#include <string>

struct dim3 { unsigned x, y, z; };

namespace {

constexpr int kWarp = 32, kMostThreads = 1024, kMostArguments = 16;
constexpr size_t kStack = 128 * 1024;
enum Status { kReady, kAtBarrier, kInShuffle, kDone };
typedef void (*Kernel)(void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*,
                       void*, void*);

struct Fibre {
  ucontext_t start;
  jmp_buf place;
  Status status;
  bool begun;
  int turn;
  uint32_t sent[2];
};

Fibre fibres[kMostThreads];
jmp_buf scheduler;
ucontext_t home;
int current, threads;
unsigned blocks_run;
Kernel kernel;
void* arguments[kMostArguments];

[[noreturn]] void fail(const char* reason) {
  fprintf(stderr, "CUDA on the CPU: %s\n", reason);
  abort();
}

void pause(Status status) {
  fibres[current].status = status;
  if (_setjmp(fibres[current].place) == 0) _longjmp(scheduler, 1);
}

void live() {
  for (;;) {
    void** a = arguments;
    kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
    pause(kDone);
  }
}

}  // namespace

extern "C" {

dim3 threadIdx, blockIdx, blockDim, gridDim;

void emulated_barrier() { pause(kAtBarrier); }

uint32_t emulated_shuffle(uint32_t value, int lane_mask) {
  Fibre& fibre = fibres[current];
  int turn = fibre.turn ^= 1, partner = current ^ lane_mask;
  fibre.sent[turn] = value;
  pause(kInShuffle);
  return fibres[partner].sent[turn];
}
}

namespace {

void resume(int thread) {
  current = thread;
  threadIdx.x = thread;
  Fibre& fibre = fibres[thread];
  fibre.status = kReady;
  if (_setjmp(scheduler) != 0) return;
  if (fibre.begun) _longjmp(fibre.place, 1);
  fibre.begun = true;
  getcontext(&fibre.start);
  fibre.start.uc_stack.ss_sp = malloc(kStack);
  fibre.start.uc_stack.ss_size = kStack;
  fibre.start.uc_link = nullptr;
  makecontext(&fibre.start, live, 0);
  setcontext(&fibre.start);
}

bool release(Status waiting, int first, int count) {
  for (int t = first; t < first + count; ++t)
    if (fibres[t].status != waiting) return false;
  for (int t = first; t < first + count; ++t) fibres[t].status = kReady;
  return true;
}

void run_block() {
  bool backwards = blocks_run++ % 2;
  for (int t = 0; t < threads; ++t) fibres[t].status = kReady, fibres[t].turn = 0;
  for (;;) {
    bool progress = false;
    for (int i = 0; i < threads; ++i) {
      int t = backwards ? threads - 1 - i : i;
      if (fibres[t].status == kReady) resume(t), progress = true;
    }
    for (int first = 0; first < threads; first += kWarp) progress |= release(kInShuffle, first, kWarp);
    progress |= release(kAtBarrier, 0, threads);
    if (progress) continue;
    for (int t = 0; t < threads; ++t)
      if (fibres[t].status != kDone) fail("a barrier or shuffle that not all threads come to");
    return;
  }
}

struct Function {
  Kernel code;
  int argument_count;
};

struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

}  // namespace

extern "C" {

// The driver.
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int) { return *device = 0, 0; }
int cuDeviceGetName(char* name, int length, int) { return snprintf(name, length, "CUDA on the CPU"), 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = size_t(1) << 33, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  return *value = attribute == 75 ? 8 : attribute == 10 ? kWarp : attribute == 76 ? 0 : 1024, 0;
}
int cuGetErrorName(int, const char** name) { return *name = "error", 0; }
int cuGetErrorString(int, const char** text) { return *text = "error", 0; }
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuTensorMapEncodeTiled() { return 1; }

// What is loaded as a module is the path of a shared library.
int cuModuleLoadData(void** module, const void* image) {
  *module = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
  if (*module == nullptr) fail(dlerror());
  return 0;
}
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  void* code = dlsym(module, name);
  void* count = dlsym(module, (std::string(name) + "_arguments").c_str());
  if (code == nullptr || count == nullptr) return 500;
  *function = new Function{reinterpret_cast<Kernel>(code), *static_cast<int*>(count)};
  return 0;
}
int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** parameters, void**) {
  threads = config->block_x;
  if (config->block_y * config->block_z * config->grid_z != 1 || threads > kMostThreads || threads % kWarp)
    fail("a launch of other than whole warps in one dimension");
  if (config->shared_bytes != 0) fail("dynamic shared memory");
  const Function* called = static_cast<const Function*>(function);
  if (called->argument_count > kMostArguments) fail("too many arguments");
  kernel = called->code;
  blockDim = {config->block_x, 1, 1};
  gridDim = {config->grid_x, config->grid_y, 1};
  for (int i = 0; i < called->argument_count; ++i) memcpy(&arguments[i], parameters[i], sizeof(void*));
  for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) run_block();
  return 0;
}

// The runtime.  Fresh memory holds NaN, as no program may rely on what is there.
int cudaGetDeviceCount(int* count) { return *count = 1, 0; }
int cudaGetDevice(int* device) { return *device = 0, 0; }
int cudaSetDevice(int) { return 0; }
int cudaDeviceGetAttribute(int* value, int attribute, int device) { return cuDeviceGetAttribute(value, attribute, device); }
int cudaGetDeviceProperties(void*, int) { return 0; }
int cudaMemGetInfo(size_t* available, size_t* total) { return *available = *total = size_t(1) << 33, 0; }
int cudaMalloc(void** memory, size_t bytes) {
  *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset(*memory, 0xFF, bytes);
  return 0;
}
int cudaFree(void* memory) { return free(memory), 0; }
int cudaMallocHost(void** memory, size_t bytes) { return cudaMalloc(memory, bytes); }
int cudaFreeHost(void* memory) { return cudaFree(memory); }
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, void*) { return memcpy(to, from, bytes), 0; }
int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, void*) { return memcpy(to, from, bytes), 0; }
int cudaGetLastError() { return 0; }
int cudaPeekAtLastError() { return 0; }
const char* cudaGetErrorName(int) { return "error"; }
const char* cudaGetErrorString(int) { return "error"; }
int cudaStreamCreate(void** stream) { return *stream = nullptr, 0; }
int cudaStreamCreateWithFlags(void** stream, unsigned) { return *stream = nullptr, 0; }
int cudaStreamDestroy(void*) { return 0; }
int cudaStreamSynchronize(void*) { return 0; }
int cudaStreamWaitEvent(void*, void*, unsigned) { return 0; }
int cudaStreamBeginCapture(void*, int) { return 801; }
int cudaStreamEndCapture(void*, void**) { return 801; }
int cudaGraphInstantiate(void**, void*, unsigned long long) { return 801; }
int cudaGraphLaunch(void*, void*) { return 801; }
int cudaGraphDestroy(void*) { return 0; }
int cudaGraphExecDestroy(void*) { return 0; }
int cudaEventCreate(void**) { return 0; }
int cudaEventDestroy(void*) { return 0; }
int cudaEventRecord(void*, void*) { return 0; }
int cudaEventSynchronize(void*) { return 0; }
int cudaEventElapsedTime(float* milliseconds, void*, void*) { return *milliseconds = 0, 0; }
}
