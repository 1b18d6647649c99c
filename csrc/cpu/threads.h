// One team of threads: torch's own OpenMP runtime. A second pool would fight its spinning workers for the cores.
#pragma once
#include <atomic>
#include <memory>

namespace rnn {

// Spins briefly, then sleeps: on a busy machine a spinning wait would burn the time slice its partner needs.
class alignas(64) Barrier {
 public:
  void expect(int parties) { parties_ = parties; }
  void wait();

 private:
  int parties_ = 1;
  std::atomic<int> arrived_{0};
  std::atomic<uint32_t> generation_{0};
};

// The barriers of one call: of all threads, and of each row slice.
class Meeting {
 public:
  Meeting(int rows, int cols);
  void all() { barriers_[0].wait(); }
  void row(int slice) { barriers_[1 + slice].wait(); }

 private:
  std::unique_ptr<Barrier[]> barriers_;
};

// Calls body(context, 0..threads-1), one thread each. False, and nothing was called, where fewer threads came.
bool run_parallel(int threads, void (*body)(void*, int), void* context);

}  // namespace rnn
