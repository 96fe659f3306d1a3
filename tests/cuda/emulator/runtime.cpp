// The CUDA runtime's functions over the emulated device: device memory is the host's, streams run at once or record.
//
// emulator/control.hpp says which device is shown and which allocation fails. Threads: as the emulator, one; the
// weights' copying threads call nothing.
#include "emulator/control.hpp"
#include "emulator/device.hpp"

#include "bench/cold_caches.hpp"

#include <cstdlib>
#include <cstring>
#include <map>
#include <string_view>

namespace quire::cuda::emulator {

Control& control() {
  static Control control = [] {
    Control c;
    const char* const variable = std::getenv("QUIRE_EMULATED_DEVICE");
    const std::string_view word = variable != nullptr ? variable : "";
    if (word == "cool") c.cooled_bytes = bench::kPrivateCaches;
    if (word == "cold") c.cooled_bytes = bench::kAllCaches;
    c.idle = word == "idle" || c.cooled_bytes != 0;
    if (c.idle) c.multiprocessors = 132;
    return c;
  }();
  return control;
}

namespace {

struct Work {
  std::vector<std::function<void()>> steps;
};
std::map<cudaStream_t, Work*> capturing;

cudaError_t fail_next() {
  Control& c = control();
  if (c.lost) return cudaErrorIllegalAddress;
  return cudaSuccess;
}

cudaError_t allocate(void** to, size_t bytes) {
  Control& c = control();
  if (const cudaError_t error = fail_next(); error != cudaSuccess) return error;
  if (++c.allocations == c.fail_allocation) return cudaErrorMemoryAllocation;
  *to = std::aligned_alloc(1024, (bytes + 1023) / 1024 * 1024);
  std::memset(*to, c.idle ? 0 : 0xff, bytes); // NaNs, until somebody writes
  ++c.live;
  return cudaSuccess;
}

cudaError_t release(void* p) {
  if (p != nullptr) --control().live;
  std::free(p);
  return cudaSuccess;
}

} // namespace

void enqueue(cudaStream_t stream, std::function<void()> work) {
  if (control().idle) return;
  const auto found = capturing.find(stream);
  if (found != capturing.end())
    found->second->steps.push_back(std::move(work));
  else
    work();
}

} // namespace quire::cuda::emulator

using namespace quire::cuda::emulator;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  if (control().no_driver) return cudaErrorInsufficientDriver;
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = control().no_driver ? 0 : 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return fail_next(); }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return fail_next(); }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? control().compute_capability / 10
           : attribute == cudaDevAttrComputeCapabilityMinor ? control().compute_capability % 10
                                                            : 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  std::strcpy(properties->name, "emulated CUDA device");
  properties->major = control().compute_capability / 10, properties->minor = control().compute_capability % 10;
  properties->multiProcessorCount = control().multiprocessors;
  properties->totalGlobalMem = 8ull << 30;
  properties->sharedMemPerBlockOptin = 227 << 10;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = 6ull << 30, *total = 8ull << 30, fail_next(); }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "an emulated error";
}
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorEmulated"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaMalloc(void** to, size_t bytes) { return allocate(to, bytes); }
cudaError_t cudaFree(void* p) { return release(p); }
cudaError_t cudaMallocHost(void** to, size_t bytes) { return allocate(to, bytes); }
cudaError_t cudaFreeHost(void* p) { return release(p); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (const cudaError_t error = fail_next(); error != cudaSuccess) return error;
  enqueue(stream, [=] { std::memmove(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = fail_next(); error != cudaSuccess) return error;
  enqueue(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return *stream = reinterpret_cast<cudaStream_t>(std::malloc(16)), fail_next();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return std::free(stream), cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return fail_next(); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return fail_next(); }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  capturing[stream] = new Work;
  return fail_next();
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = reinterpret_cast<cudaGraph_t>(capturing[stream]);
  capturing.erase(stream);
  return fail_next();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new Work(*reinterpret_cast<Work*>(graph)));
  return fail_next();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete reinterpret_cast<Work*>(graph), cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return delete reinterpret_cast<Work*>(executable), cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return fail_next(); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  if (const cudaError_t error = fail_next(); error != cudaSuccess) return error;
  ++control().graph_launches;
  if (control().idle) return cudaSuccess;
  for (const auto& step : reinterpret_cast<Work*>(executable)->steps) step();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = reinterpret_cast<cudaEvent_t>(std::malloc(16)), fail_next();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return std::free(event), cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return fail_next(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  if (const uint64_t bytes = control().cooled_bytes; bytes != 0) quire::bench::cool_caches(bytes);
  return fail_next();
}
cudaError_t cudaEventQuery(cudaEvent_t) { return fail_next(); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  return *milliseconds = 1, fail_next();
}

} // extern "C"
