// Cooperative groups: the grid, the block, tiles of a warp and coalesced lanes.
#pragma once
#include "cuda_runtime.h"

namespace cooperative_groups {

using Site = cuda_on_cpu::Site;

struct grid_group {
  bool is_valid() const { return cuda_on_cpu::is_cooperative(); }
  void sync(Site site = Site::current()) const { cuda_on_cpu::meet_grid({"grid sync", site}); }
  static dim3 group_dim() { return gridDim; }
  static dim3 dim_blocks() { return gridDim; }
  static dim3 block_index() { return blockIdx; }
  static unsigned long long num_blocks() { return 1ull * gridDim.x * gridDim.y * gridDim.z; }
  static unsigned long long block_rank() {
    return blockIdx.x + 1ull * gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  }
  static unsigned long long num_threads() { return num_blocks() * blockDim.x * blockDim.y * blockDim.z; }
  static unsigned long long thread_rank() {
    return block_rank() * blockDim.x * blockDim.y * blockDim.z + cuda_on_cpu::thread_rank();
  }
  static unsigned long long size() { return num_threads(); }
};
inline grid_group this_grid() { return {}; }

struct thread_block {
  static void sync(Site site = Site::current()) { __syncthreads(site); }
  static dim3 group_index() { return blockIdx; }
  static dim3 thread_index() { return threadIdx; }
  static dim3 group_dim() { return blockDim; }
  static dim3 dim_threads() { return blockDim; }
  static unsigned thread_rank() { return cuda_on_cpu::thread_rank(); }
  static unsigned num_threads() { return blockDim.x * blockDim.y * blockDim.z; }
  static unsigned size() { return num_threads(); }
};
inline thread_block this_thread_block() { return {}; }

// Some lanes of a warp, numbered in their order.
class coalesced_group {
 public:
  explicit coalesced_group(unsigned mask) : mask_(mask) {}
  unsigned thread_rank() const { return __popc(mask_ & ((1u << cuda_on_cpu::lane()) - 1)); }
  unsigned num_threads() const { return __popc(mask_); }
  unsigned size() const { return num_threads(); }
  void sync(Site site = Site::current()) const { __syncwarp(mask_, site); }
  template <class T> T shfl(T value, unsigned rank, Site site = Site::current()) const {
    return from("shfl", value, rank, site);
  }
  template <class T> T shfl_up(T value, unsigned delta, Site site = Site::current()) const {
    return from("shfl_up", value, thread_rank() < delta ? thread_rank() : thread_rank() - delta, site);
  }
  template <class T> T shfl_down(T value, unsigned delta, Site site = Site::current()) const {
    return from("shfl_down", value, thread_rank() + delta >= size() ? thread_rank() : thread_rank() + delta, site);
  }
  int any(int predicate, Site site = Site::current()) const { return __any_sync(mask_, predicate, site); }
  int all(int predicate, Site site = Site::current()) const { return __all_sync(mask_, predicate, site); }

 protected:
  template <class T> T from(const char* what, T value, unsigned rank, Site site) const {
    unsigned lanes = mask_;
    for (rank %= size(); rank; rank--) lanes &= lanes - 1;
    return cuda_on_cpu::shuffle(what, mask_, value, __ffs(static_cast<int>(lanes)) - 1, site);
  }
  unsigned mask_;
};
inline coalesced_group coalesced_threads() { return coalesced_group(__activemask()); }

template <unsigned N, class Parent = thread_block> class thread_block_tile : public coalesced_group {
  static_assert(N && N <= 32 && (N & (N - 1)) == 0, "1, 2, 4, 8, 16 or 32 lanes");

 public:
  thread_block_tile() : coalesced_group((~0u >> (32 - N)) << (cuda_on_cpu::lane() & ~(N - 1))) {}
  static constexpr unsigned num_threads() { return N; }
  static constexpr unsigned size() { return N; }
  static unsigned thread_rank() { return cuda_on_cpu::lane() % N; }
  static unsigned meta_group_rank() { return cuda_on_cpu::thread_rank() / N; }
  static unsigned meta_group_size() { return (thread_block::num_threads() + N - 1) / N; }
  template <class T> T shfl_xor(T value, unsigned bits, Site site = Site::current()) const {
    return this->from("shfl_xor", value, thread_rank() ^ bits, site);
  }
  unsigned ballot(int predicate, Site site = Site::current()) const {
    return __ballot_sync(this->mask_, predicate, site) >> (cuda_on_cpu::lane() & ~(N - 1)) & (~0u >> (32 - N));
  }
};
template <unsigned N, class Parent> thread_block_tile<N, Parent> tiled_partition(const Parent&) { return {}; }

template <class Group> void sync(const Group& group, Site site = Site::current()) { group.sync(site); }

}  // namespace cooperative_groups
