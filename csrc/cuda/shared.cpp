#include "shared.h"

#include <cuda_runtime_api.h>

#include <mutex>
#include <set>
#include <tuple>

namespace rnn::cuda {

void allow_shared_memory(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::tuple<const void*, int, int>> allowed;
  int device = 0, most = 0;
  cudaFuncAttributes own{};
  bool fine = cudaGetDevice(&device) == cudaSuccess &&
              cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  std::lock_guard lock(mutex);
  if (fine && allowed.count({kernel, device, most})) return;
  fine = fine && cudaFuncGetAttributes(&own, kernel) == cudaSuccess &&
         cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              most - static_cast<int>(own.sharedSizeBytes)) == cudaSuccess;
  if (fine)
    allowed.emplace(kernel, device, most);
  else
    (void)cudaGetLastError();
}

}  // namespace rnn::cuda
