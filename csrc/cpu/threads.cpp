#include "threads.h"

#include <omp.h>

#include <climits>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <thread>
#endif

namespace rnn {
namespace {

constexpr int kSpins = 2000;  // a guess: some tens of microseconds, by the length of a pause instruction

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

void sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
#ifdef __linux__
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  (void)word, (void)value;
  std::this_thread::yield();
#endif
}

void wake_all(std::atomic<uint32_t>& word) {
#ifdef __linux__
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  (void)word;
#endif
}

}  // namespace

void Barrier::wait() {
  if (parties_ == 1) return;
  // The low bit of generation_ tells the last to arrive that somebody sleeps.
  uint32_t mine = generation_.load(std::memory_order_acquire) & ~1u;
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == parties_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    if (generation_.exchange(mine + 2, std::memory_order_acq_rel) & 1u) wake_all(generation_);
    return;
  }
  for (int i = 0; i < kSpins; ++i) {
    if ((generation_.load(std::memory_order_acquire) & ~1u) != mine) return;
    relax();
  }
  uint32_t expected = mine;
  generation_.compare_exchange_strong(expected, mine | 1u, std::memory_order_acq_rel);
  while ((generation_.load(std::memory_order_acquire) & ~1u) == mine) sleep_while(generation_, mine | 1u);
}

Meeting::Meeting(int rows, int cols) : barriers_(new Barrier[1 + rows]) {
  barriers_[0].expect(rows * cols);
  for (int i = 0; i < rows; ++i) barriers_[1 + i].expect(cols);
}

bool run_parallel(int threads, void (*body)(void*, int), void* context) {
  if (threads == 1) {
    body(context, 0);
    return true;
  }
  bool all_came = true;
#pragma omp parallel num_threads(threads)
  {
    if (omp_get_num_threads() == threads)
      body(context, omp_get_thread_num());
    else
      all_came = false;
  }
  return all_came;
}

}  // namespace rnn
