// The core without torch or Python, for sanitizers: every cell, precision, instruction set and layout of threads over
// odd sizes, each tensor between two fences. Gradients are held against central differences, float
// against double, NaN-filled results and workspace against results that depend on them. Exits 1 if anything disagrees.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "cpu/plan.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#endif

namespace {

using namespace rnn;

int failures = 0, checks = 0;

struct Case {
  int cell;
  int64_t T, B, I, H, P;      // P 0: no projection
  std::vector<int64_t> rows;  // of each tick, where packed
  bool reverse, b_ih, b_hh;
  int64_t x_gap;  // numbers between the rows of x

  int64_t frames() const {
    if (rows.empty()) return T * B;
    int64_t n = 0;
    for (int64_t r : rows) n += r;
    return n;
  }
  int64_t outputs() const { return P ? P : H; }
  std::string text() const {
    std::string s = std::string(cell_facts(cell).name) + " T" + std::to_string(T) + " B" + std::to_string(B) + " I" +
                    std::to_string(I) + " H" + std::to_string(H) + " P" + std::to_string(P);
    if (!rows.empty()) s += " packed";
    if (reverse) s += " reverse";
    return s + (b_ih ? " b_ih" : "") + (b_hh ? " b_hh" : "") + (x_gap ? " strided" : "");
  }
};

uint64_t seed = 1;
double uniform() {  // in [-1, 1], a float's worth of bits
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(static_cast<int64_t>(seed >> 40)) / (1 << 23) - 1;
}

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
template <class Real> Block<Real> block(int64_t n, double value) {
  return std::make_unique<Tensor<Real>>(static_cast<size_t>(n), static_cast<Real>(value));
}
template <class Real> Real* data(const Block<Real>& b) { return b && b->size() ? b->data() : nullptr; }

enum Which { X, WIH, WHH, BIH, BHH, WHR, FIRST };  // tensors 6, 7, ...: the initial states

std::vector<int64_t> sizes(const Case& c) {
  const Facts& f = cell_facts(c.cell);
  int64_t P = c.outputs(), GH = f.gates * c.H;
  int64_t rows = c.frames();
  std::vector<int64_t> n{
      rows ? (rows - 1) * (c.I + c.x_gap) + c.I : 0, GH * c.I, GH * P, c.b_ih ? GH : 0, c.b_hh ? GH : 0, c.P * c.H};
  for (int s = 0; s < f.states; ++s) n.push_back(c.B * (s ? c.H : P));
  return n;
}

std::vector<std::vector<double>> random_tensors(const Case& c) {
  std::vector<std::vector<double>> tensors;
  for (int64_t n : sizes(c)) {
    auto& t = tensors.emplace_back(n);
    double scale = tensors.size() - 1 == WIH || tensors.size() - 1 == WHH ? 1 / std::sqrt(double(c.H)) : 1;
    for (auto& v : t) v = static_cast<float>(scale * uniform());
  }
  return tensors;
}

template <class Real> struct Results {
  Block<Real> out, saved;
  std::vector<Block<Real>> final, grads;  // grads in the order of Which
};

struct Run {
  Isa isa;
  int threads;
  Plan plan;
};

template <class Real> void launch(Pass pass, const Case& c, const Call<Real>& call, const Run& run) {
  const Kernels<Real>& k = kernels<Real>(run.isa);
  const Facts& f = cell_facts(c.cell);
  const bool forward = pass == Pass::kForward;
  size_t n = (forward ? k.forward_space : k.backward_space)(f, call, run.plan);
  char* space = static_cast<char*>(std::aligned_alloc(64, n));
  std::fill_n(reinterpret_cast<float*>(space), n / sizeof(float), std::numeric_limits<float>::quiet_NaN());
  Meeting meeting(run.plan.grid_rows, run.plan.grid_cols);
  auto body = [&](int thread) {
    (forward ? k.forward : k.backward)(c.cell, f, call, run.plan, space, meeting, thread);
  };
  if (!run_parallel(
          run.plan.threads(), [](void* b, int thread) { (*static_cast<decltype(body)*>(b))(thread); }, &body)) {
    std::printf("%d threads could not be started\n", run.plan.threads());
    std::exit(2);
  }
  std::free(space);
}

// What one call is given: inputs, their layout in time, and the weights of the scalar that is differentiated.
template <class Real> struct Inputs {
  const Case& c;
  std::vector<Block<Real>> tensors;
  std::vector<Block<Real>> grad_final;
  Block<Real> grad_out;
  std::vector<int64_t> frame_at{0};

  Inputs(const Case& c, const std::vector<std::vector<double>>& from, const std::vector<std::vector<double>>& towards)
      : c(c) {
    for (auto& t : from) tensors.push_back(std::make_unique<Tensor<Real>>(t));
    grad_out = std::make_unique<Tensor<Real>>(towards[0]);
    for (size_t s = 1; s < towards.size(); ++s) grad_final.push_back(std::make_unique<Tensor<Real>>(towards[s]));
    for (int64_t r : c.rows) frame_at.push_back(frame_at.back() + r);
  }

  Call<Real> call() const {
    Call<Real> k{};
    bool packed = !c.rows.empty();
    k.time = {c.T, c.B, packed ? c.rows.data() : nullptr, packed ? frame_at.data() : nullptr, c.reverse};
    k.inputs = c.I;
    k.hidden = c.H;
    k.outputs = c.outputs();
    k.x = data(tensors[X]);
    k.x_row = c.I + c.x_gap;
    k.x_tick = packed ? 0 : c.B * k.x_row;
    k.w_ih = data(tensors[WIH]);
    k.w_hh = data(tensors[WHH]);
    k.b_ih = data(tensors[BIH]);
    k.b_hh = data(tensors[BHH]);
    k.w_hr = data(tensors[WHR]);
    for (size_t s = FIRST; s < tensors.size(); ++s) k.first[s - FIRST] = data(tensors[s]);
    k.saved_rows = cell_facts(c.cell).kept_rows(c.P > 0);
    return k;
  }

  Results<Real> forward(const Run& run, bool save) const {
    const Facts& f = cell_facts(c.cell);
    const double nan = std::numeric_limits<double>::quiet_NaN();
    Results<Real> r;
    Call<Real> k = call();
    r.out = block<Real>(c.frames() * c.outputs(), nan);
    k.out = data(r.out);
    for (int s = 0; s < f.states; ++s) {
      r.final.push_back(block<Real>(c.B * (s ? c.H : c.outputs()), nan));
      k.final[s] = data(r.final[s]);
    }
    if (save) {
      r.saved = block<Real>(c.frames() * f.kept_rows(c.P > 0) * c.H, nan);
      k.saved = data(r.saved);
    }
    launch(Pass::kForward, c, k, run);
    return r;
  }

  void backward(const Run& run, Results<Real>& r, bool needs_x, bool needs_w) const {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    Call<Real> k = call();
    k.out = data(r.out);
    k.saved = data(r.saved);
    k.grad_out = data(grad_out);
    for (size_t s = 0; s < grad_final.size(); ++s) k.grad_final[s] = data(grad_final[s]);
    std::vector<int64_t> n = sizes(c);
    n[X] = c.frames() * c.I;  // gradients are dense
    r.grads.clear();
    for (size_t i = 0; i < n.size(); ++i) {
      bool needed = i >= FIRST || (i == X ? needs_x : needs_w);
      r.grads.push_back(block<Real>(needed ? n[i] : 0, nan));
    }
    Real** to[] = {&k.grad_x, &k.grad_w_ih, &k.grad_w_hh, &k.grad_b_ih, &k.grad_b_hh, &k.grad_w_hr};
    for (int i = 0; i < FIRST; ++i) *to[i] = data(r.grads[i]);
    for (size_t i = FIRST; i < n.size(); ++i) k.grad_first[i - FIRST] = data(r.grads[i]);
    launch(Pass::kBackward, c, k, run);
  }
};

void fail(const Case& c, const Run& run, const char* precision, const std::string& what) {
  ++failures;
  std::printf("FAILED %s %s %s, %s, block %lld: %s\n", isa_name(run.isa), precision, c.text().c_str(),
              describe(run.plan).text, static_cast<long long>(run.plan.block_ticks), what.c_str());
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

template <class A, class B> double distance(const Results<A>& a, const Results<B>& b) {
  double worst = distance(a.out, b.out);
  for (size_t s = 0; s < a.final.size(); ++s) worst = std::max(worst, distance(a.final[s], b.final[s]));
  for (size_t i = 0; i < a.grads.size(); ++i) worst = std::max(worst, distance(a.grads[i], b.grads[i]));
  return worst;
}

double weighted(const Results<double>& r, const std::vector<std::vector<double>>& by) {
  double sum = 0;
  for (size_t i = 0; i < r.out->size(); ++i) sum += (*r.out)[i] * by[0][i];
  for (size_t s = 0; s < r.final.size(); ++s)
    for (size_t i = 0; i < r.final[s]->size(); ++i) sum += (*r.final[s])[i] * by[s + 1][i];
  return sum;
}

// Every gradient along one random direction of its tensor, against a central difference.
void differences(const Case& c, const Run& run, const std::vector<std::vector<double>>& at,
                 const std::vector<std::vector<double>>& towards, const Results<double>& r) {
  constexpr double kStep = 1e-6;
  for (size_t i = 0; i < at.size(); ++i) {
    if (at[i].empty()) continue;
    double slope = 0, scale = 0, ends[2];
    std::vector<double> direction(at[i].size());
    for (size_t j = 0; j < direction.size(); ++j) {
      int64_t row = i == X ? int64_t(j) / (c.I + c.x_gap) : 0,
              column = i == X ? int64_t(j) % (c.I + c.x_gap) : int64_t(j);
      if (i == X && column >= c.I) continue;
      direction[j] = uniform();
      double term = (*r.grads[i])[row * c.I + column] * direction[j];
      slope += term;
      scale += std::abs(term);
    }
    for (int side = 0; side < 2; ++side) {
      auto moved = at;
      for (size_t j = 0; j < direction.size(); ++j) moved[i][j] += (side ? kStep : -kStep) * direction[j];
      ends[side] = weighted(Inputs<double>(c, moved, towards).forward(run, false), towards);
    }
    double found = (ends[1] - ends[0]) / (2 * kStep);
    ++checks;
    if (!(std::abs(found - slope) <= 1e-6 * scale + 1e-8 * std::max(1.0, std::abs(ends[0]))))
      fail(c, run, "double",
           "gradient of tensor " + std::to_string(i) + ": " + std::to_string(slope) + ", difference " +
               std::to_string(found));
  }
}

template <class Real>
Results<Real> agree(const Case& c, const Run& run, const std::vector<std::vector<double>>& at,
                    const std::vector<std::vector<double>>& towards, const char* precision, bool in_parts) {
  Inputs<Real> inputs(c, at, towards);
  Results<Real> r = inputs.forward(run, true), again = inputs.forward(run, false);
  if (distance(again, r) != 0)
    fail(c, run, precision, "the result depends on what is saved, or differs from run to run");
  inputs.backward(run, r, true, true);
  ++checks;
  if (!in_parts) return r;
  Results<Real> part{std::move(again.out), nullptr, std::move(again.final), {}};
  part.saved = std::make_unique<Tensor<Real>>(*r.saved);
  for (bool x : {false, true}) {
    inputs.backward(run, part, x, !x);
    for (size_t i = 0; i < part.grads.size(); ++i) {
      bool needed = i >= FIRST || (i == X) == x;
      if (needed && distance(part.grads[i], r.grads[i]) != 0)
        fail(c, run, precision, "gradient " + std::to_string(i) + " depends on which gradients are asked for");
    }
  }
  checks += 2;
  return r;
}

std::vector<Run> runs_of(const Case& c, Isa isa) {
  std::vector<Run> runs;
  const Facts& f = cell_facts(c.cell);
  Timeline time{c.T, c.B, nullptr, nullptr, c.reverse};
  std::vector<int64_t> frame_at{0};
  for (int64_t r : c.rows) frame_at.push_back(frame_at.back() + r);
  if (!c.rows.empty()) time.rows_at = c.rows.data(), time.frame_at = frame_at.data();
  for (int threads : {1, 2})
    runs.push_back({isa, threads,
                    make_plan(Pass::kForward, f, time, c.I, c.H, c.outputs(), kernels<double>(isa).tile, 8, threads)});
  // Whatever the model says, every grid must work: more slices than rows, blocks that do not divide T.
  for (Plan plan :
       {Plan{1, 1, false, 2}, Plan{2, 1, true, 1}, Plan{1, 2, false, 3}, Plan{1, 2, true, c.T}, Plan{2, 2, true, 2}})
    runs.push_back({isa, plan.threads(), plan});
  return runs;
}

void check(const Case& c) {
  auto at = random_tensors(c);
  const Facts& f = cell_facts(c.cell);
  std::vector<std::vector<double>> towards(1 + f.states);
  towards[0].resize(c.frames() * c.outputs());
  for (int s = 0; s < f.states; ++s) towards[1 + s].resize(c.B * (s ? c.H : c.outputs()));
  for (auto& t : towards)
    for (auto& v : t) v = static_cast<float>(uniform());

  std::unique_ptr<Results<double>> first;
  for (Isa isa : available_isas()) {
    bool fresh = true;  // what costs most is done once for each instruction set
    for (const Run& run : runs_of(c, isa)) {
      Results<double> wide = agree<double>(c, run, at, towards, "double", fresh);
      Results<float> narrow = agree<float>(c, run, at, towards, "float", fresh);
      // Sums of some hundred terms over some ticks: a few dozen roundings at the most.
      double apart = distance(narrow, wide);
      if (!(apart <= 64 * std::numeric_limits<float>::epsilon()))
        fail(c, run, "float",
             "differs from double by " + std::to_string(apart / std::numeric_limits<float>::epsilon()) + " eps");
      if (first && !(distance(wide, *first) <= 64 * std::numeric_limits<double>::epsilon()))
        fail(c, run, "double", "differs from the first run");
      checks += 2;
      if (fresh) differences(c, run, at, towards, wide);
      fresh = false;
      if (!first) first = std::make_unique<Results<double>>(std::move(wide));
    }
  }
}

}  // namespace

int main() {
  for (int cell = 0; cell < cell_count(); ++cell) {
    std::vector<Case> cases{
        {cell, 3, 2, 3, 7, 0, {}, false, true, true, 0},
        {cell, 4, 3, 5, 9, 0, {}, true, false, true, 2},
        {cell, 2, 13, 17, 16, 0, {}, false, true, false, 0},
        {cell, 1, 1, 1, 1, 0, {}, false, false, false, 0},
        {cell, 3, 5, 1, 33, 0, {}, true, true, true, 0},
        {cell, 5, 4, 3, 17, 0, {4, 3, 3, 1, 1}, false, true, true, 0},
        {cell, 5, 7, 9, 8, 0, {7, 5, 2, 2, 1}, true, true, false, 3},
        {cell, 4, 6, 2, 15, 0, {4, 2, 1, 0}, false, false, true, 0},  // rows that never live, a tick without rows
        {cell, 4, 6, 2, 15, 0, {4, 2, 1, 0}, true, true, true, 0},
        {cell, 3, 90, 2, 3, 0, {}, false, true, true, 0},  // more frames than one panel of weight gradients
    };
    if (cell_facts(cell).projection) {
      cases.push_back({cell, 3, 2, 3, 9, 4, {}, false, true, true, 0});
      cases.push_back({cell, 4, 7, 2, 17, 1, {}, true, false, true, 1});
      cases.push_back({cell, 5, 5, 3, 8, 7, {5, 4, 4, 2, 1}, false, true, false, 0});
      cases.push_back({cell, 4, 3, 5, 33, 16, {2, 2, 1, 0}, true, true, true, 0});
    }
    for (const Case& c : cases) check(c);
  }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures ? 1 : 0;
}
