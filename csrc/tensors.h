// What the files of ops share: tensors as pointers, shapes as text, rows of unequal length, a team of threads.
#pragma once
#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "cpu/pages.h"
#include "cpu/threads.h"
#include "ops.h"
#include "walk/call.h"

namespace rnn {

inline std::string shape_text(at::IntArrayRef sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text.append(i ? ", " : "").append(std::to_string(sizes[i]));
  return text + (sizes.size() == 1 ? ",)" : ")");
}

// Whether a tensor's ops run the kernels of csrc/cuda: on a card, or in the tests' build that executes those on the
// CPU.
inline bool on_card([[maybe_unused]] const at::Tensor& t) {
#if defined(RNN_CUDA_ON_CPU)
  return true;
#elif defined(RNN_CUDA)
  return t.is_cuda();
#else
  return false;
#endif
}

// Uninitialized.
inline at::Tensor fresh(at::IntArrayRef sizes, at::TensorOptions options) {
  at::Tensor t = at::empty(sizes, options);
  if (t.is_cpu()) prefer_huge_pages(t.mutable_data_ptr(), t.nbytes());
  return t;
}

template <class Real> const Real* read(const at::Tensor& t) { return t.defined() ? t.const_data_ptr<Real>() : nullptr; }
template <class Real> Real* data(const at::Tensor& t) { return t.defined() ? t.mutable_data_ptr<Real>() : nullptr; }

// The largest size of an axis, and of a piece of a sequence: products of two of them do not overflow.
constexpr int64_t kMaxSize = (int64_t(1) << 31) - 1;

// Of each of B rows, 0 to `most` time steps.
inline std::vector<int64_t> checked_lengths(const std::string& op, const at::Tensor& lengths, int64_t B, int64_t most) {
  TORCH_CHECK(
      lengths.dim() == 1 && lengths.scalar_type() == at::kLong && lengths.device().is_cpu() && lengths.size(0) == B, op,
      ": lengths: expected int64 on the CPU of shape (", B, ",), got ", lengths.scalar_type(), " on ", lengths.device(),
      " of shape ", shape_text(lengths.sizes()));
  at::Tensor dense = lengths.contiguous();
  const int64_t* n = dense.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < B; ++b)
    TORCH_CHECK(n[b] >= 0 && n[b] <= most, op, ": lengths: expected 0 to ", most, " ticks, got ", n[b], " for row ", b);
  return {n, n + B};
}

// The rows from the longest to the shortest, how many are alive at each of T ticks, and each tick's first frame.
inline void sort_by_length(const std::vector<int64_t>& n, int64_t T, std::vector<int64_t>& order,
                           std::vector<int64_t>& rows_at, std::vector<int64_t>& frame_at) {
  order.resize(n.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return n[a] > n[b]; });
  rows_at.assign(T, 0);
  for (int64_t length : n)
    for (int64_t t = 0; t < length; ++t) ++rows_at[t];
  frame_at.assign(1, 0);
  for (int64_t rows : rows_at) frame_at.push_back(frame_at.back() + rows);
}

// A timeline whose lists lie on a card, in `lists`, which is filled at the first call. Nothing waits for the card.
inline Timeline on_card(Timeline time, at::Device device, at::Tensor& lists) {
  const std::pair<const int64_t**, int64_t> all[] = {{&time.rows_at, time.ticks},
                                                     {&time.frame_at, time.ticks + 1},
                                                     {&time.tick_place, time.ticks},
                                                     {&time.row_place, time.batch},
                                                     {&time.order, time.batch}};
  if (!time.rows_at) return time;
  if (!lists.defined()) {
    at::Tensor host = at::empty({3 * time.ticks + 1 + 2 * time.batch},
                                at::TensorOptions().dtype(at::kLong).pinned_memory(device.is_cuda()));
    int64_t* to = host.mutable_data_ptr<int64_t>();
    for (auto [list, n] : all) to = *list ? std::copy_n(*list, n, to) : to + n;
    lists = host.to(device, /*non_blocking=*/true);
  }
  const int64_t* from = lists.const_data_ptr<int64_t>();
  for (auto [list, n] : all) {
    if (*list) *list = from;
    from += n;
  }
  return time;
}

// Runs body(thread) on so many threads; false, and nothing ran, where fewer came.
template <class Body> bool run_team(int threads, Body& body) {
  return run_parallel(threads, [](void* f, int thread) { (*static_cast<Body*>(f))(thread); }, &body);
}

}  // namespace rnn
