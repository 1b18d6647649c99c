// What both parts of the core's driver are made of: numbers, tensors between two fences, workspace, threads, distances.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/isa.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#endif

namespace driver {

using namespace rnn;

inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
inline int failures = 0, checks = 0;

inline uint64_t state = 1;
inline double uniform() {  // in [-1, 1], a float's worth of bits
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(static_cast<int64_t>(state >> 40)) / (1 << 23) - 1;
}
inline std::vector<double> random_floats(int64_t n, double scale = 1) {
  std::vector<double> v(n);
  for (double& x : v) x = static_cast<float>(scale * uniform());
  return v;
}

void check_ntm();  // core_driver_ntm.cpp

// ------------------------------------------------------------------------------------------------------------ tensors

// One tensor between two fences. The sanitizer sees whoever reads or writes them, but for the masked vector
// instructions, which it does not know: those leave a mark. The fences also keep tensors off any alignment.
template <class Real> class Tensor {
 public:
  Tensor(size_t n, Real value) : n_(n), all_(n + 2 * kFence, kMark) {
    std::fill_n(data(), n, value);
    for (size_t at : {size_t(0), kFence + n}) ASAN_POISON_MEMORY_REGION(&all_[at], kFence * sizeof(Real));
  }
  template <class From> explicit Tensor(const From& from) : Tensor(from.size(), 0) {
    std::copy(from.begin(), from.end(), data());
  }
  Tensor(const Tensor& other) : Tensor(other.n_, 0) { std::copy(other.begin(), other.end(), data()); }
  ~Tensor() {
    ASAN_UNPOISON_MEMORY_REGION(all_.data(), all_.size() * sizeof(Real));
    auto whole = [](Real v) { return v == kMark; };
    if (std::all_of(all_.begin(), all_.begin() + kFence, whole) && std::all_of(all_.end() - kFence, all_.end(), whole))
      return;
    ++failures;
    std::printf("FAILED somebody wrote beside a tensor of %zu numbers\n", n_);
  }
  Real* data() { return all_.data() + kFence; }
  const Real* begin() const { return all_.data() + kFence; }
  const Real* end() const { return begin() + n_; }
  size_t size() const { return n_; }
  Real operator[](size_t i) const { return begin()[i]; }

 private:
  static constexpr size_t kFence = 33;
  static constexpr Real kMark = Real(1234.5);
  size_t n_;
  std::vector<Real> all_;
};

template <class Real> using Block = std::unique_ptr<Tensor<Real>>;
template <class Real> Block<Real> block(int64_t n, double value = kNaN) {
  return std::make_unique<Tensor<Real>>(static_cast<size_t>(n), static_cast<Real>(value));
}
template <class Real> Real* data(const Block<Real>& b) { return b && b->size() ? b->data() : nullptr; }

// ------------------------------------------------------------------------------------------------------------ running

template <class Body> bool run_threads(int threads, Body& body) {
#ifdef __SANITIZE_THREAD__  // which does not see how libgomp's threads meet
  std::vector<std::thread> team;
  for (int i = 1; i < threads; ++i) team.emplace_back([&body, i] { body(i); });
  body(0);
  for (auto& t : team) t.join();
  return true;
#else
  return run_parallel(threads, [](void* b, int thread) { (*static_cast<Body*>(b))(thread); }, &body);
#endif
}

// Calls body(space, thread) with so many bytes of NaN, and not one more.
template <class Body> void run_with_space(size_t bytes, int threads, Body&& body) {
  char* space = static_cast<char*>(std::aligned_alloc(64, bytes));
  std::fill_n(reinterpret_cast<float*>(space), bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
  auto with_space = [&](int thread) { body(space, thread); };
  if (!run_threads(threads, with_space)) {
    std::printf("%d threads could not be started\n", threads);
    std::exit(2);
  }
  std::free(space);
}

// ----------------------------------------------------------------------------------------------------------- checking

inline void report(Isa isa, const char* precision, const std::string& text, const std::string& what) {
  ++failures;
  std::printf("FAILED %s %s %s: %s\n", isa_name(isa), precision, text.c_str(), what.c_str());
}

// max |a - b| / max(1, |b|), infinite where a NaN is.
template <class A, class B> double distance(const Block<A>& a, const Block<B>& b) {
  double worst = 0, largest = 1;
  for (size_t i = 0; i < b->size(); ++i) {
    double d = std::abs(double((*a)[i]) - double((*b)[i]));
    if (!(d == d)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, d);
    largest = std::max(largest, std::abs(double((*b)[i])));
  }
  return worst / largest;
}

// The largest distance, and which it was.
struct Apart {
  double by = 0;
  std::string what = "nothing";
  void see(const char* name, size_t i, double d) {
    if (!(d <= by)) by = d, what = name + std::to_string(i);
  }
  bool within(double limit) const { return by <= limit; }
  std::string text(double unit) const { return what + " by " + std::to_string(by / unit) + " eps"; }
};

// The slope found against a central difference of what is weighed.
inline bool agrees(double slope, double scale, double difference, double value) {
  return std::abs(difference - slope) <= 1e-6 * scale + 1e-8 * std::max(1.0, std::abs(value));
}

}  // namespace driver
