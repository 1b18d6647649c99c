// The Neural Turing Machine for drivers, as core_driver_layers.h has the layers. Gradients of weights are made by hand
// of what the kernels leave for the op's products.
#pragma once
#include <numeric>

#include "core_driver.h"

namespace driver::machines {

// ------------------------------------------------------------------------------------------------------------- cases

constexpr int kMostLayers = 2;

// Roundings by which results may differ: sharpening all but doubles them at every tick, and for a memory of one number
// the gradient of the similarity is a difference of what all but cancels.
constexpr double kRoundings = 512;

struct Size {
  int64_t T, B, I, H, N, M;                 // without a controller neither I nor H
  std::vector<int64_t> lengths{};           // of the rows, or all T
  int64_t x_gap = 0;                        // numbers between the frames of x
  bool batch_first = false, blank = false;  // blank: the first row of each memory and all weightings are zero
};

struct Conventions {
  const char* text;
  int controller = 0, layers = 1;
  bool recurrent = true;
  int reads = 1, writes = 1;
  Order order = kReadFirst;
  Guard guard = kSum;
  double eps = 0.1, sharpen_eps = 0, clip = 0;
  Shift shift{1, false};
  bool tanh_key = true, tanh_add = true, activated = false;
  bool head_bias = true, grad_final = true;
};

struct Case {
  const Conventions& how;
  const Size& size;
  Machine m;
  const Facts& f;
  Record record;

  Case(const Conventions& how, const Size& size)
      : how(how), size(size), m(machine(how, size)), f(controller_facts(how.controller)), record(m, f) {}

  static Machine machine(const Conventions& how, const Size& size) {
    constexpr double kInfinite = std::numeric_limits<double>::infinity();
    Machine m{
        size.I,       size.H,         size.N,        size.M,    how.reads,       how.writes,
        how.layers,   how.controller, how.recurrent, how.order, how.guard,       how.shift,
        how.tanh_key, how.tanh_add,   how.activated, how.eps,   how.sharpen_eps, how.clip > 0 ? how.clip : kInfinite};
    if (!m.layers) m.inputs = m.parameters(), m.hidden = 0;
    return m;
  }
  int64_t gates() const { return f.gates * m.hidden; }
  bool has_state(int s) const {
    if (s >= kMemory) return s != kReads || m.layers;
    return m.layers && s < f.states && (s > 0 || m.recurrent);
  }
  // Without a controller reads are not read again, and a row without a tick has none.
  bool leaves_state(int s) const { return has_state(s) || (s == kReads && size.lengths.empty()); }
  int64_t row_numbers(int s) const {
    if (s < kMemory) return m.hidden;
    return s == kMemory ? m.rows * m.width : s == kReads ? m.read_numbers() : m.heads() * m.rows;
  }
  int64_t state_numbers(int s) const { return (s < kMemory ? m.layers : 1) * size.B * row_numbers(s); }
  std::string text() const {
    std::string s = std::string("ntm ") + how.text;
    for (auto [name, n] :
         {std::pair("T", size.T), {"B", size.B}, {"I", m.inputs}, {"H", m.hidden}, {"N", m.rows}, {"M", m.width}})
      s += " " + std::string(name) + std::to_string(n);
    return s + (size.lengths.empty() ? "" : " ragged");
  }
};

// Rows of unequal length lie sorted, as the op sorts them; what is past the end of a row is nobody's.
struct Places {
  std::vector<int64_t> order, rows_at, frame_at{0};
  Timeline time{};
  int64_t x_row, x_tick;
  std::vector<std::pair<int64_t, int64_t>> frames;  // of those alive: where x begins, and the place

  explicit Places(const Case& c) {
    const Size& s = c.size;
    x_row = c.m.inputs + s.x_gap;
    x_tick = s.B * x_row;
    if (s.batch_first) x_tick = x_row, x_row *= s.T;
    bool sorts = !s.lengths.empty();
    if (sorts) {
      order.resize(s.B);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return s.lengths[a] > s.lengths[b]; });
      for (int64_t t = 0; t < s.T; ++t) {
        rows_at.push_back(std::count_if(s.lengths.begin(), s.lengths.end(), [t](int64_t n) { return n > t; }));
        frame_at.push_back(frame_at.back() + rows_at[t]);
      }
    }
    time = {.ticks = s.T,
            .batch = s.B,
            .rows_at = sorts ? rows_at.data() : nullptr,
            .frame_at = sorts ? frame_at.data() : nullptr,
            .reverse = false,
            .begin = 0,
            .end = s.T,
            .tick_place = nullptr,
            .row_place = sorts ? order.data() : nullptr,
            .tick_stride = s.B,
            .order = sorts ? order.data() : nullptr};
    for (int64_t t = 0; t < s.T; ++t)
      for (int64_t b = 0; b < time.rows(t); ++b)
        frames.push_back({t * x_tick + time.row_at(b) * x_row, time.place(t, b)});
  }
  Places(const Places&) = delete;
};

// Of each layer, then of the states.
enum Which { kX, kWHeads, kBHeads, kWeight, kBias = kWeight + kMostLayers, kFirst = kBias + kMostLayers };
constexpr int kState = kFirst, kTensors = kState + int(kNtmStates);

// A case's numbers, all of them floats.
struct Numbers {
  std::vector<double> tensors[kTensors];  // by Which
  std::vector<double> grad_features, grad_final[kNtmStates];

  Numbers(const Case& c, const Places& p) {
    const Machine& m = c.m;
    int64_t x_size = 0;
    for (auto [x, place] : p.frames) x_size = std::max(x_size, x + m.inputs);
    tensors[kX].assign(x_size, kNaN);
    for (auto [x, place] : p.frames) {
      std::vector<double> v = random_floats(m.inputs, m.layers ? 1 : 2);
      if (m.activated) activate(m, v);
      std::copy(v.begin(), v.end(), tensors[kX].begin() + x);
    }
    auto fan = [](int64_t n) { return 2 / std::sqrt(static_cast<double>(n)); };
    for (int l = 0; l < m.layers; ++l) {
      tensors[kWeight + l] = random_floats(c.gates() * m.layer_width(l), fan(m.layer_width(l)));
      tensors[kBias + l] = random_floats(c.gates());
    }
    if (m.layers) tensors[kWHeads] = random_floats(m.parameters() * m.hidden, fan(m.hidden));
    if (m.layers && c.how.head_bias) tensors[kBHeads] = random_floats(m.parameters());
    for (int s = 0; s < kNtmStates; ++s) {
      if (!c.has_state(s)) continue;
      std::vector<double>& v = tensors[kState + s] = random_floats(c.state_numbers(s));
      for (size_t i = 0; s == kWeightings && i < v.size(); i += m.rows) spread(&v[i], m.rows);
      for (size_t i = 0; s == kMemory && c.size.blank && i < v.size(); i += c.row_numbers(s))
        std::fill_n(&v[i], m.width, 0);
      if (s == kWeightings && c.size.blank) std::fill(v.begin(), v.end(), 0);
      if (c.how.grad_final) grad_final[s] = random_floats(v.size());
    }
    grad_features = random_floats(p.frames.size() * m.features());
  }

 private:
  static void spread(double* v, int64_t n) {  // to a distribution
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += v[i] = 1.1 + v[i];
    for (int64_t i = 0; i < n; ++i) v[i] = static_cast<float>(v[i] / sum);
  }
  // To what activations may yield.
  static void activate(const Machine& m, std::vector<double>& v) {
    for (int h = 0; h < m.heads(); ++h) {
      double* x = &v[m.head_at(h)];
      auto into = [&](int64_t i, double low, double high) {
        x[i] = static_cast<float>(low + (high - low) * (x[i] + 2) / 4);
      };
      into(m.strength(), 0.1, 4);
      into(m.gate(), 0.1, 0.9);
      into(m.sharpening(), 1, 3);
      for (int64_t i = m.shifts(); i < m.sharpening(); ++i) into(i, -1, 1);
      spread(x + m.shifts(), m.shift.width());
      for (int64_t i = m.erase(); m.writes_at(h) && i < m.add(); ++i) into(i, 0.1, 0.9);
    }
  }
};

// ------------------------------------------------------------------------------------------------------------ running

struct Way {
  Isa isa;
  int threads;
  bool packed, even;  // even: equal shares of the rows; else of the groups that one thread would make of them
};

// Who runs calls, where it is not the core.
template <class Real> inline void (*runs_instead)(bool forward, const NtmCall<Real>&, const Facts&) = nullptr;

template <class Real> void launch(bool forward, const NtmCall<Real>& call, const Facts& f, const Way& way) {
  if (runs_instead<Real>) return runs_instead<Real>(forward, call, f);
  const NtmKernels<Real>& k = ntm_kernels<Real>(way.isa);
  const int64_t B = call.time.batch, tile = kernels<Real>(way.isa).tile.rows;
  const int64_t shares = way.even ? way.threads : (B + tile - 1) / tile;
  std::vector<int64_t> from;
  for (int i = 0; i < way.threads; ++i) from.push_back(B * std::min<int64_t>(i, shares) / shares);
  from.push_back(B);
  NtmPlan plan{way.threads, from.data(), way.packed};
  Meeting meeting(1, way.threads);
  run_with_space(
      (forward ? k.forward_space : k.backward_space)(f, call, plan), way.threads,
      [&](char* space, int thread) { (forward ? k.forward : k.backward)(f, call, plan, space, meeting, thread); });
}

template <class Real> using States = std::vector<Block<Real>>;

template <class Real> struct Results {
  Block<Real> features;
  std::vector<States<Real>> ends;  // of each piece
  std::vector<Block<Real>> grads;  // by Which; that of x lies as x does
};

inline void fail(const Case& c, const Way& way, const char* precision, const std::string& what) {
  report(way.isa, precision,
         c.text() + ", " + std::to_string(way.threads) + " threads" + (way.packed ? ", packed" : ", unpacked"), what);
}

// What one call is given, in one precision.
template <class Real> struct Inputs {
  const Case& c;
  const Places& p;
  std::vector<Block<Real>> tensors, grad_final;
  Block<Real> grad_features;
  const char* precision = sizeof(Real) == 8 ? "double" : "float";

  Inputs(const Case& c, const Places& p, const Numbers& n) : c(c), p(p) {
    for (auto& t : n.tensors) tensors.push_back(std::make_unique<Tensor<Real>>(t));
    for (auto& t : n.grad_final) grad_final.push_back(std::make_unique<Tensor<Real>>(t));
    grad_features = std::make_unique<Tensor<Real>>(n.grad_features);
  }

  // By pieces of so many ticks, which save nothing but where they ended.
  Results<Real> forward(const Way& way, int64_t length) const {
    Results<Real> r;
    r.features = block<Real>(p.frames.size() * c.m.features());
    for (int64_t i = 0; i * length < c.size.T; ++i) {
      NtmCall<Real> k = piece(r, i, length);
      r.ends.push_back(states());
      point(k.final, r.ends[i]);
      k.features = r.features->data() + features_at(k);
      k.ld_features = c.m.features();
      launch(true, k, c.f, way);
    }
    return r;
  }

  // The last piece first: forward once more, to save, and backward.
  void backward(const Way& way, int64_t length, Results<Real>& r, bool needs_x) const {
    const Machine& m = c.m;
    r.grads.clear();
    for (auto& t : tensors) r.grads.push_back(block<Real>(t->size(), 0));
    States<Real> carried;  // gradients between pieces
    Block<Real> grad_x = block<Real>(needs_x ? c.size.T * c.size.B * m.inputs : 0);
    for (int64_t i = r.ends.size() - 1; i >= 0; --i) {
      NtmCall<Real> k = piece(r, i, length);
      const int64_t n = k.time.frame(k.time.end);
      Block<Real> saved = block<Real>(c.record.rows(k.time.steps(), c.size.B) * c.record.numbers);
      States<Real> ends = states(), first = states();
      point(k.final, ends);
      k.saved = data(saved);
      k.features = k.saved + c.record.features;
      k.ld_features = c.record.numbers;
      launch(true, k, c.f, way);
      if (!repeats(k, r, ends, r.ends[i])) fail(c, way, precision, "depends on what is saved");

      k.grad_features = grad_features->begin() + features_at(k);
      point(k.grad_final, i + 1 == static_cast<int64_t>(r.ends.size()) ? grad_final : carried);
      point(k.grad_first, first);
      k.grad_x = data(grad_x);
      Block<Real> gates[kMostLayers], parameters = block<Real>(m.layers ? n * m.parameters() : 0);
      for (int l = 0; l < m.layers; ++l) k.grad_gates[l] = data(gates[l] = block<Real>(n * c.gates()));
      k.grad_parameters = data(parameters);
      launch(false, k, c.f, way);
      carried = std::move(first);
      for (int l = 0; l < m.layers; ++l)
        add_product(r, kWeight + l, kBias + l, n, *gates[l], c.gates(), k.saved + c.record.layer[l], m.layer_width(l));
      if (m.layers) add_product(r, kWHeads, kBHeads, n, *parameters, m.parameters(), k.features, m.hidden);
    }
    for (int s = 0; s < kNtmStates; ++s)
      if (c.has_state(s)) r.grads[kState + s] = std::move(carried[s]);
    if (needs_x)
      put_x(way, *grad_x, *r.grads[kX]);
    else
      r.grads[kX] = block<Real>(0);
  }

  Results<Real> both(const Way& way, int64_t length, bool needs_x = true) const {
    Results<Real> r = forward(way, length);
    backward(way, length, r, needs_x);
    return r;
  }

 private:
  NtmCall<Real> piece(const Results<Real>& r, int64_t i, int64_t length) const {
    NtmCall<Real> k{};
    k.machine = c.m;
    k.time = p.time;
    k.time.begin = i * length;
    k.time.end = std::min(c.size.T, k.time.begin + length);
    k.x = data(tensors[kX]);
    k.x_tick = p.x_tick;
    k.x_row = p.x_row;
    for (int l = 0; l < c.m.layers; ++l) {
      k.weight[l] = data(tensors[kWeight + l]);
      k.bias[l] = data(tensors[kBias + l]);
    }
    k.head_weight = data(tensors[kWHeads]);
    k.head_bias = data(tensors[kBHeads]);
    for (int s = 0; s < kNtmStates; ++s)
      if (c.has_state(s)) k.first[s] = data(i ? r.ends[i - 1][s] : tensors[kState + s]);
    return k;
  }
  States<Real> states() const {
    States<Real> to;
    for (int s = 0; s < kNtmStates; ++s) to.push_back(block<Real>(c.leaves_state(s) ? c.state_numbers(s) : 0));
    return to;
  }
  template <class Pointers> static void point(Pointers& to, const States<Real>& at) {
    for (int s = 0; s < kNtmStates; ++s) to[s] = data(at[s]);
  }
  int64_t features_at(const NtmCall<Real>& k) const { return p.time.frame(k.time.begin) * c.m.features(); }

  bool repeats(const NtmCall<Real>& k, const Results<Real>& r, const States<Real>& ends,
               const States<Real>& before) const {
    ++checks;
    bool same = true;
    for (int s = 0; s < kNtmStates; ++s) same &= distance(ends[s], before[s]) == 0;
    for (int64_t i = 0; i < k.time.frame(k.time.end); ++i)
      same &= std::equal(k.features + i * k.ld_features, k.features + i * k.ld_features + c.m.features(),
                         r.features->begin() + features_at(k) + i * c.m.features());
    return same;
  }

  // Adds up the gradients of a weight and its bias, from n rows of its products' gradients and of what those read.
  void add_product(Results<Real>& r, int weight, int bias, int64_t n, const Tensor<Real>& left, int64_t rows,
                   const Real* right, int64_t cols) const {
    Tensor<Real>&w = *r.grads[weight], &b = *r.grads[bias];
    for (int64_t i = 0; i < rows; ++i) {
      std::vector<double> sums(cols + 1);
      for (int64_t k = 0; k < n; ++k) {
        double d = left[k * rows + i];
        for (int64_t j = 0; j < cols; ++j) sums[j] += d * right[k * c.record.numbers + j];
        sums[cols] += d;
      }
      for (int64_t j = 0; j < cols; ++j) w.data()[i * cols + j] += static_cast<Real>(sums[j]);
      if (b.size()) b.data()[i] += static_cast<Real>(sums[cols]);
    }
  }

  // From places to where x lies; nothing was written past the end of a row.
  void put_x(const Way& way, const Tensor<Real>& from, Tensor<Real>& to) const {
    const int64_t n = c.m.inputs;
    for (auto [x, place] : p.frames) std::copy_n(from.begin() + place * n, n, to.data() + x);
    int64_t written = std::count_if(from.begin(), from.end(), [](Real v) { return v == v; });
    if (written > static_cast<int64_t>(p.frames.size()) * n)
      fail(c, way, precision, "gradient of x: written past the end of a row");
  }
};

// ----------------------------------------------------------------------------------------------------------- checking

template <class A, class B> Apart distance(const Results<A>& a, const Results<B>& b) {
  Apart worst;
  worst.see("features", 0, distance(a.features, b.features));
  for (int s = 0; s < kNtmStates; ++s) worst.see("final ", s, distance(a.ends.back()[s], b.ends.back()[s]));
  for (int i = 0; i < kTensors; ++i)
    if (a.grads[i]->size()) worst.see("gradient ", i, distance(a.grads[i], b.grads[i]));
  return worst;
}

// -------------------------------------------------------------------------------------------------------- what there
// is

inline const std::vector<Size> kSizes{
    {.T = 4, .B = 3, .I = 3, .H = 5, .N = 17, .M = 6},
    {.T = 1, .B = 1, .I = 1, .H = 1, .N = 1, .M = 1},
    {.T = 4, .B = 13, .I = 4, .H = 9, .N = 33, .M = 20, .x_gap = 1},
    {.T = 6, .B = 3, .I = 2, .H = 17, .N = 2, .M = 6, .lengths = {2, 6, 0}, .blank = true},
    {.T = 9, .B = 5, .I = 5, .H = 6, .N = 17, .M = 1, .lengths = {8, 1, 5, 0, 9}, .x_gap = 2},
    {.T = 4, .B = 3, .I = 0, .H = 7, .N = 128, .M = 20},  // no inputs
    {.T = 1, .B = 13, .I = 3, .H = 33, .N = 2, .M = 20},
    {.T = 9, .B = 3, .I = 3, .H = 4, .N = 33, .M = 6, .batch_first = true, .blank = true},
    {.T = 4, .B = 13, .I = 2, .H = 8, .N = 1, .M = 6, .lengths = {4, 0, 1, 1, 4, 2, 3, 0, 4, 4, 1, 2, 3}},
    {.T = 5, .B = 1, .I = 6, .H = 16, .N = 128, .M = 1},
    {.T = 6, .B = 3, .I = 1, .H = 3, .N = 16, .M = 6, .lengths = {0, 4, 4}},  // ticks without rows
};

inline const std::vector<Conventions> kConventions{
    {.text = "lstm"},
    {.text = "feed-forward, write first",
     .controller = 1,
     .recurrent = false,
     .reads = 2,
     .writes = 3,
     .order = kWriteFirst,
     .guard = kFloor,
     .tanh_key = false},
    {.text = "two layers, interleaved",
     .layers = 2,
     .reads = 2,
     .writes = 3,
     .order = kInterleaved,
     .sharpen_eps = 1e-16,
     .shift = {3, true}},
    {.text = "reads alone", .reads = 5, .writes = 0, .guard = kFloor, .shift = {0, false}, .tanh_add = false},
    {.text = "writes alone, sharpened less", .reads = 0, .writes = 2, .sharpen_eps = 0.05, .tanh_add = false},
    {.text = "clipped, without a bias",
     .controller = 1,
     .layers = 2,
     .recurrent = false,
     .order = kWriteFirst,
     .guard = kFloor,
     .eps = 0.3,
     .clip = 0.7,
     .shift = {3, false},
     .head_bias = false},
    {.text = "interleaved, more reads, features alone",
     .reads = 3,
     .order = kInterleaved,
     .shift = {1, true},
     .tanh_key = false,
     .grad_final = false},
    {.text = "no controller", .layers = 0, .reads = 2, .writes = 3, .sharpen_eps = 1e-16, .tanh_add = false},
    {.text = "no controller, activated, interleaved",
     .layers = 0,
     .order = kInterleaved,
     .guard = kFloor,
     .sharpen_eps = 0.05,
     .shift = {3, true},
     .activated = true},
    {.text = "no controller, reads alone", .layers = 0, .reads = 5, .writes = 0, .order = kWriteFirst, .clip = 1.5},
    {.text = "no controller, activated, writes alone",
     .layers = 0,
     .reads = 0,
     .writes = 2,
     .order = kInterleaved,
     .shift = {0, true},
     .activated = true},
    {.text = "recurrent tanh, interleaved",
     .controller = 1,
     .layers = 2,
     .reads = 1,
     .writes = 2,
     .order = kInterleaved,
     .shift = {3, false}},
    {.text = "lstm without recurrence, no guard", .layers = 2, .recurrent = false, .order = kWriteFirst, .eps = 0},
};

}  // namespace driver::machines
