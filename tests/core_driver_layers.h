// Layers for drivers: every option and odd size, what a call is given, each tensor between two fences, and how it is
// run, whole or by pieces.
#pragma once
#include <numeric>

#include "core_driver.h"
#include "cpu/plan.h"

namespace driver::layers {

constexpr double kEps = 1e-2;  // of normalisation: a row of two numbers would do without, but then float says little

// ------------------------------------------------------------------------------------------------------------- cases

enum Layout {
  kFull,
  kPacked,
  kPadded,
  kFlat
};  // of rows of unequal length: as PackedSequence, (T,B), one after another
enum Source { kNone, kGiven, kDrawn, kConstant };  // as Mask's

struct Shape {
  int64_t T, B, I, H, P = 0;  // P 0: no projection
  Layout layout = kFull;
  std::vector<int64_t> lengths{};  // of the rows; packed: sorted
  bool reverse = false;
  int64_t x_gap = 0;  // numbers between the frames of x
  bool batch_first = false;
};

struct Options {
  const char* text;
  int fed = 2;  // 0: nothing feeds back, 1: h alone, 2: all that may, where a cell leaves the choice
  bool b_ih = true, b_hh = true;
  Source masks[kMasks] = {};  // by MaskKind
  bool each_tick = false;
  bool resets = false;
  unsigned reset_given = ~0u;  // states that are reset to something else than zero
  double cell_clip = 0, gradient_clip = 0;
  bool truncated = false;
  int squash[2] = {-1, -1};
  bool all_states = false, grad_out = true, grad_final = true;
  int64_t saved_gap = 0;
};

struct Case {
  int cell;
  const Shape& shape;
  const Options& options;

  const Facts& facts() const { return cell_facts(cell); }
  int states() const { return facts().states; }
  bool packs() const { return shape.layout == kPacked; }
  bool is_flat() const { return packs() || shape.layout == kFlat; }
  int64_t frames() const {  // of the caller's tensors
    return is_flat() ? std::accumulate(shape.lengths.begin(), shape.lengths.end(), int64_t(0)) : shape.T * shape.B;
  }
  int64_t outputs() const { return shape.P ? shape.P : shape.H; }
  int64_t units(int s) const { return s ? shape.H : outputs(); }
  int64_t fed() const {
    int most = shape.P ? 1 : facts().fed;
    return shape.P ? shape.P : (most > 1 && options.fed < 2 ? options.fed : most) * shape.H;
  }
  Source source(int kind) const {
    bool cannot = (kind == kZoneH && shape.P) || (kind == kZoneCell && !facts().cell);
    return cannot ? kNone : options.masks[kind];
  }
  double probability(int kind) const { return source(kind) == kNone ? 0 : kind == kDropInput ? 0.25 : 0.375; }
  bool each_tick(int kind) const { return options.each_tick || kind == kZoneH || kind == kZoneCell; }
  int64_t mask_units(int kind) const { return kind == kDropInput ? shape.I : kind == kDropFed ? outputs() : shape.H; }
  bool is_true_gradient() const {
    return !options.truncated && (options.gradient_clip == 0 || options.gradient_clip > 100);
  }
  std::string text() const {
    std::string s = facts().name;
    for (auto [name, n] : {std::pair("T", shape.T), {"B", shape.B}, {"I", shape.I}, {"H", shape.H}, {"P", shape.P}})
      s += " " + std::string(name) + std::to_string(n);
    const char* layouts[] = {"", " packed", " padded", " flat"};
    return s + layouts[shape.layout] + (shape.reverse ? " reverse" : "") + ", " + options.text;
  }
};

// Where the frames of a case lie; what is past the end of a row is nobody's.
struct Places {
  std::vector<int64_t> rows_at, frame_at{0}, row_place, order;
  int64_t x_row, x_tick;
  Timeline time{};
  std::vector<std::pair<int64_t, int64_t>> frames;  // of those alive: where x begins, and the place
  std::vector<char> alive;                          // by place

  explicit Places(const Case& c) {
    const Shape& s = c.shape;
    x_row = s.I + s.x_gap;
    x_tick = c.is_flat() ? x_row : s.B * x_row;
    if (s.batch_first) x_tick = x_row, x_row *= s.T;
    bool unequal = s.layout != kFull, sorts = unequal && !c.packs();
    if (unequal) {
      order.resize(s.B);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return s.lengths[a] > s.lengths[b]; });
      for (int64_t t = 0; t < s.T; ++t) {
        rows_at.push_back(std::count_if(s.lengths.begin(), s.lengths.end(), [t](int64_t n) { return n > t; }));
        frame_at.push_back(frame_at.back() + rows_at[t]);
      }
      for (int64_t b : order)
        row_place.push_back(c.is_flat() ? std::accumulate(s.lengths.begin(), s.lengths.begin() + b, int64_t(0)) : b);
    }
    time = {.ticks = s.T,
            .batch = s.B,
            .rows_at = unequal ? rows_at.data() : nullptr,
            .frame_at = unequal ? frame_at.data() : nullptr,
            .reverse = s.reverse,
            .begin = 0,
            .end = s.T,
            .tick_place = c.packs() ? frame_at.data() : nullptr,
            .row_place = sorts ? row_place.data() : nullptr,
            .tick_stride = c.is_flat() ? 1 : s.B,
            .order = sorts ? order.data() : nullptr};
    alive.assign(c.frames(), 0);
    for (int64_t t = 0; t < s.T; ++t)
      for (int64_t b = 0; b < time.rows(t); ++b) {
        frames.push_back({time.tick_at(t) * x_tick + time.row_at(b) * x_row, time.place(t, b)});
        alive[frames.back().second] = 1;
      }
  }
  Places(const Places&) = delete;
};

enum Which { kX, kWIh, kWHh, kBIh, kBHh, kWHr, kUnit, kFirst };  // then the initial states, then the reset states

// A case's numbers, all of them floats.
struct Numbers {
  std::vector<std::vector<double>> tensors;  // in the order of Which
  std::vector<double> grad_out;              // the weights of the scalar that is differentiated
  std::vector<std::vector<double>> grad_final, grad_all;
  std::vector<double> masks[kMasks];
  std::vector<char> resets;

  Numbers(const Case& c, const Places& p) {
    const Facts& f = c.facts();
    const Shape& s = c.shape;
    int64_t H = s.H, x_size = 0;
    for (auto [x, place] : p.frames) x_size = std::max(x_size, x + s.I);
    double fan = 1 / std::sqrt(static_cast<double>(H));
    tensors = {std::vector<double>(x_size, kNaN),
               random_floats(f.input_gates() * H * s.I, fan),
               random_floats(f.gates * H * c.fed(), fan),
               random_floats(c.options.b_ih * (f.gates - f.first_bias_ih) * H),
               random_floats(c.options.b_hh * (f.gates - f.first_bias_hh) * H),
               random_floats(s.P * H),
               random_floats(f.parameters * H)};
    for (auto [x, place] : p.frames) std::ranges::generate_n(tensors[kX].begin() + x, s.I, uniform);
    for (int n = 0; n < f.states; ++n) tensors.push_back(random_floats(s.B * c.units(n)));
    for (int n = 0; n < f.states; ++n)
      tensors.push_back(random_floats(c.options.resets && (c.options.reset_given >> n & 1) ? c.units(n) : 0));
    auto towards = [&](int64_t units) {
      auto v = random_floats(c.frames() * units);
      for (size_t i = 0; i < v.size(); ++i)
        if (!p.alive[i / units]) v[i] = 0;
      return v;
    };
    if (c.options.grad_out) grad_out = towards(c.outputs());
    for (int n = 0; n < f.states; ++n) {
      grad_final.push_back(random_floats(c.options.grad_final ? s.B * c.units(n) : 0));
      grad_all.push_back(n && c.options.all_states ? towards(H) : std::vector<double>());
    }
    for (int kind = kZoneH; kind <= kDropInput; ++kind)
      if (c.source(kind) == kGiven) {
        masks[kind].resize((c.each_tick(kind) ? s.T : 1) * s.B * c.mask_units(kind));
        for (double& v : masks[kind]) v = kind < kDropFed ? uniform() < 0 : uniform() < -0.4 ? 0 : 1.25;
      }
    if (c.options.resets)
      for (int64_t i = 0; i < c.frames(); ++i) resets.push_back(uniform() < -0.2);
    resets.shrink_to_fit();  // or the sanitizer would not see its end
  }
};

template <class Real> struct Results {
  Block<Real> out, saved;
  std::vector<Block<Real>> final, all, grads;  // grads in the order of Which
};

// ------------------------------------------------------------------------------------------------------------ running

struct Run {
  Isa isa;
  Plan plan;
};

inline void fail(const Case& c, const Run& run, const char* precision, const std::string& what) {
  report(run.isa, precision,
         c.text() + ", " + describe(run.plan).text + ", block " + std::to_string(run.plan.block_ticks), what);
}

// Who runs calls, where it is not the core.
template <class Real> inline void (*runs_instead)(Pass, const Case&, const Call<Real>&) = nullptr;

template <class Real> void launch(Pass pass, const Case& c, const Call<Real>& call, const Run& run) {
  if (runs_instead<Real>) return runs_instead<Real>(pass, c, call);
  const Kernels<Real>& k = kernels<Real>(run.isa);
  const bool forward = pass == Pass::kForward;
  size_t n = (forward ? k.forward_space : k.backward_space)(c.facts(), call, run.plan);
  Meeting meeting(run.plan.grid_rows, run.plan.grid_cols);
  run_with_space(n, run.plan.threads(), [&](char* space, int thread) {
    (forward ? k.forward : k.backward)(c.cell, c.facts(), call, run.plan, space, meeting, thread);
  });
}

// What one call is given, in one precision.
template <class Real> struct Inputs {
  const Case& c;
  const Places& p;
  std::vector<Block<Real>> tensors, grad_final, grad_all;
  Block<Real> grad_out, masks[kMasks];
  const std::vector<char>& resets;

  Inputs(const Case& c, const Places& p, const Numbers& n) : c(c), p(p), resets(n.resets) {
    for (auto& t : n.tensors) tensors.push_back(std::make_unique<Tensor<Real>>(t));
    for (auto& t : n.grad_final) grad_final.push_back(std::make_unique<Tensor<Real>>(t));
    grad_out = std::make_unique<Tensor<Real>>(past_ends(n.grad_out, c.outputs()));
    for (auto& t : n.grad_all) grad_all.push_back(std::make_unique<Tensor<Real>>(past_ends(t, c.shape.H)));
    for (int k = 0; k < kMasks; ++k) masks[k] = std::make_unique<Tensor<Real>>(n.masks[k]);
  }

  Call<Real> call() const {
    const Shape& s = c.shape;
    const Options& o = c.options;
    constexpr Real kInfinite = std::numeric_limits<Real>::infinity();
    Call<Real> k{};
    k.time = p.time;
    k.inputs = s.I;
    k.hidden = s.H;
    k.outputs = c.outputs();
    k.fed = c.fed();
    k.x = tensors[kX]->begin();
    k.x_row = p.x_row;
    k.x_tick = p.x_tick;
    const Real** at[] = {&k.w_ih, &k.w_hh, &k.b_ih, &k.b_hh, &k.w_hr, &k.unit};
    for (int i = kWIh; i < kFirst; ++i) *at[i - kWIh] = data(tensors[i]);
    for (int n = 0; n < c.states(); ++n) {
      k.first[n] = data(tensors[kFirst + n]);
      k.reset[n] = data(tensors[kFirst + c.states() + n]);
    }
    k.resets = o.resets ? reinterpret_cast<const bool*>(resets.data()) : nullptr;
    for (int kind = kZoneH; kind <= kDropInput; ++kind) {
      k.masks[kind] = mask(kind);
      k.masks[kind].given = masks[kind]->begin();
    }
    k.seed = 0x9E3779B97F4A7C15u;
    k.stream = 3;
    k.cell_clip = o.cell_clip > 0 && c.facts().cell ? static_cast<Real>(o.cell_clip) : kInfinite;
    k.gradient_clip = o.gradient_clip > 0 ? static_cast<Real>(o.gradient_clip) : kInfinite;
    k.eps = static_cast<Real>(kEps);
    k.truncated = o.truncated;
    for (int i = 0; i < 2; ++i) {
      int own = c.facts().shared ? (i ? kH1997 : kG1997) : kTanh;
      k.squash[i] = o.squash[i] < 0 ? own : o.squash[i];
    }
    k.saved_numbers = k.kept(c.facts()).numbers(s.H) + o.saved_gap;
    return k;
  }

  Mask<Real> mask(int kind) const {
    Mask<Real> m{};
    m.source = static_cast<typename Mask<Real>::Source>(c.source(kind));
    m.probability = c.probability(kind);
    m.each_tick = c.each_tick(kind);
    m.row = c.mask_units(kind);
    m.tick = m.each_tick ? c.shape.B * m.row : 0;
    return m;
  }

  // The call over steps [from, to) of the sweep.
  static void restrict(Call<Real>& k, int64_t from, int64_t to) {
    k.time.begin = k.time.reverse ? k.time.ticks - to : from;
    k.time.end = k.time.reverse ? k.time.ticks - from : to;
  }

  Results<Real> forward(const Run& run, bool save) const {
    Call<Real> k = call();
    Results<Real> r = fresh();
    k.out = data(r.out);
    for (int n = 0; n < c.states(); ++n) {
      k.final[n] = data(r.final[n]);
      k.all[n] = data(r.all[n]);
    }
    if (save) {
      r.saved = block<Real>(k.time.frame(k.time.end) * k.saved_numbers);
      k.saved = data(r.saved);
    }
    launch(Pass::kForward, c, k, run);
    clear_ends(run, r);
    return r;
  }

  void backward(const Run& run, Results<Real>& r, bool needs_x, bool needs_w) const {
    Call<Real> k = call();
    k.out = data(r.out);
    k.saved = data(r.saved);
    ask(k, r, needs_x, needs_w);
    launch(Pass::kBackward, c, k, run);
    if (needs_x) clear(run, r.grads[kX], c.shape.I, "gradient of x");
  }

  // As recomputing does it: forward by pieces that save nothing but where they ended; then, the last piece first,
  // forward once more and backward.
  Results<Real> pieces(const Run& run, int64_t length) const {
    int64_t T = c.shape.T, n = (T + length - 1) / length, most = 0;
    Results<Real> r = fresh();
    std::vector<std::vector<Block<Real>>> ends(n), carried(2);
    auto states = [&] {
      std::vector<Block<Real>> blocks;
      for (int s = 0; s < c.states(); ++s) blocks.push_back(block<Real>(c.shape.B * c.units(s)));
      return blocks;
    };
    auto part = [&](int64_t i) {
      Call<Real> k = call();
      restrict(k, i * length, std::min(T, (i + 1) * length));
      for (int s = 0; s < c.states() && i > 0; ++s) k.first[s] = data(ends[i - 1][s]);
      most = std::max(most, k.time.frame(k.time.end));
      return k;
    };
    for (int64_t i = 0; i < n; ++i) {
      Call<Real> k = part(i);
      k.out = data(r.out);
      ends[i] = states();
      for (int s = 0; s < c.states(); ++s) {
        k.final[s] = data(i + 1 < n ? ends[i][s] : r.final[s]);
        k.all[s] = data(r.all[s]);
      }
      launch(Pass::kForward, c, k, run);
    }
    clear_ends(run, r);
    std::vector<Block<Real>> thrown_away = states();
    for (auto& s : carried) s = states();
    for (int64_t i = n - 1; i >= 0; --i) {
      Call<Real> k = part(i);
      Block<Real> saved = block<Real>(most * k.saved_numbers);
      k.saved = data(saved);
      for (int s = 0; s < c.states(); ++s) k.final[s] = data(thrown_away[s]);
      launch(Pass::kForward, c, k, run);
      k.out = data(r.out);
      ask(k, r, true, true, i == n - 1);
      for (int s = 0; s < c.states(); ++s) {
        if (i + 1 < n) k.grad_final[s] = data(carried[(i + 1) & 1][s]);
        if (i > 0) k.grad_first[s] = data(carried[i & 1][s]);
      }
      k.accumulate = i + 1 < n;
      launch(Pass::kBackward, c, k, run);
    }
    clear(run, r.grads[kX], c.shape.I, "gradient of x");
    return r;
  }

 private:
  Results<Real> fresh() const {
    Results<Real> r;
    r.out = block<Real>(c.frames() * c.outputs());
    for (int n = 0; n < c.states(); ++n) {
      r.final.push_back(block<Real>(c.shape.B * c.units(n)));
      r.all.push_back(block<Real>(n && c.options.all_states ? c.frames() * c.shape.H : 0));
    }
    return r;
  }

  // Points a backward to what arrives, and to NaN-filled gradients.
  void ask(Call<Real>& k, Results<Real>& r, bool needs_x, bool needs_w, bool anew = true) const {
    k.grad_out = data(grad_out);
    for (int n = 0; n < c.states(); ++n) {
      k.grad_final[n] = data(grad_final[n]);
      k.grad_all[n] = data(grad_all[n]);
    }
    if (anew) r.grads.clear();
    for (int i = 0; anew && i < static_cast<int>(tensors.size()); ++i) {
      bool needed = i >= kFirst || (i == kX ? needs_x : needs_w);
      int64_t n = i == kX ? c.frames() * c.shape.I : static_cast<int64_t>(tensors[i]->size());
      r.grads.push_back(block<Real>(needed ? n : 0));
    }
    Real** to[] = {&k.grad_x, &k.grad_w_ih, &k.grad_w_hh, &k.grad_b_ih, &k.grad_b_hh, &k.grad_w_hr, &k.grad_unit};
    for (int i = 0; i < kFirst; ++i) *to[i] = data(r.grads[i]);
    for (int n = 0; n < c.states(); ++n) {
      k.grad_first[n] = data(r.grads[kFirst + n]);
      k.grad_reset[n] = data(r.grads[kFirst + c.states() + n]);
    }
  }

  std::vector<double> past_ends(std::vector<double> v, int64_t units) const {
    for (size_t i = 0; i < v.size(); ++i)
      if (!p.alive[i / units]) v[i] = kNaN;
    return v;
  }

  // Nothing was written past the end of a row; there stands zero now, as the op leaves it.
  void clear(const Run& run, Block<Real>& b, int64_t units, const char* what) const {
    bool touched = false;
    for (size_t i = 0; i < b->size(); ++i)
      if (!p.alive[i / units]) {
        touched |= b->data()[i] == b->data()[i];
        b->data()[i] = 0;
      }
    if (touched) fail(c, run, "", std::string(what) + ": written past the end of a row");
  }
  void clear_ends(const Run& run, Results<Real>& r) const {
    clear(run, r.out, c.outputs(), "out");
    for (auto& b : r.all) clear(run, b, c.shape.H, "a sequence");
  }
};

// ----------------------------------------------------------------------------------------------------------- checking

template <class A, class B> Apart distance(const Results<A>& a, const Results<B>& b) {
  Apart worst;
  worst.see("out", 0, distance(a.out, b.out));
  for (size_t i = 0; i < a.final.size(); ++i) worst.see("final ", i, distance(a.final[i], b.final[i]));
  for (size_t i = 0; i < a.all.size(); ++i) worst.see("sequence ", i, distance(a.all[i], b.all[i]));
  for (size_t i = 0; i < a.grads.size(); ++i) worst.see("gradient ", i, distance(a.grads[i], b.grads[i]));
  return worst;
}

// -------------------------------------------------------------------------------------------------------- what there
// is

inline const std::vector<Shape> kShapes{
    {.T = 3, .B = 2, .I = 3, .H = 7},
    {.T = 4, .B = 3, .I = 5, .H = 9, .reverse = true, .x_gap = 2},
    {.T = 5, .B = 4, .I = 3, .H = 17, .layout = kPacked, .lengths = {5, 3, 3, 1}},
    {.T = 5, .B = 5, .I = 4, .H = 6, .layout = kPadded, .lengths = {2, 5, 0, 3, 5}},
    {.T = 2, .B = 13, .I = 17, .H = 16, .batch_first = true},
    {.T = 4, .B = 4, .I = 2, .H = 11, .layout = kFlat, .lengths = {1, 4, 2, 3}, .reverse = true},
    {.T = 5, .B = 7, .I = 9, .H = 8, .layout = kPacked, .lengths = {5, 5, 3, 2, 2, 1, 1}, .reverse = true, .x_gap = 3},
    {.T = 1, .B = 1, .I = 1, .H = 1},
    {.T = 3, .B = 5, .I = 1, .H = 33, .reverse = true},
    {.T = 4, .B = 6, .I = 2, .H = 15, .layout = kPacked, .lengths = {3, 2, 2, 1, 0, 0}},  // rows that never live,
    {.T = 6, .B = 5, .I = 3, .H = 5, .layout = kPadded, .lengths = {0, 2, 4, 1, 4}, .reverse = true},  // ticks without
                                                                                                       // rows
    {.T = 3, .B = 90, .I = 2, .H = 3},  // more frames than one panel of weight gradients
    {.T = 4, .B = 3, .I = 3, .H = 10, .layout = kFlat, .lengths = {0, 4, 2}, .x_gap = 1},
    {.T = 3, .B = 2, .I = 0, .H = 5},  // no inputs
};
inline const std::vector<Shape> kProjections{
    {.T = 3, .B = 2, .I = 3, .H = 9, .P = 4},
    {.T = 4, .B = 7, .I = 2, .H = 17, .P = 1, .reverse = true, .x_gap = 1},
    {.T = 5, .B = 5, .I = 3, .H = 8, .P = 7, .layout = kPacked, .lengths = {5, 4, 4, 2, 1}},
    {.T = 4, .B = 3, .I = 5, .H = 33, .P = 16, .layout = kPadded, .lengths = {1, 3, 0}, .reverse = true},
};

inline const std::vector<Options> kOptions{
    {.text = "plain"},
    {.text = "given zoneout", .b_ih = false, .masks = {kGiven, kGiven}, .all_states = true},
    {.text = "drawn dropout", .fed = 1, .b_hh = false, .masks = {kNone, kNone, kDrawn, kDrawn}, .saved_gap = 3},
    {.text = "dropout by ticks", .masks = {kNone, kNone, kGiven, kGiven}, .each_tick = true, .all_states = true},
    {.text = "resets", .resets = true, .squash = {kLogistic, kH1997}, .all_states = true},
    {.text = "resets to zero, drawn dropout by ticks",
     .fed = 1,
     .masks = {kNone, kNone, kDrawn, kDrawn},
     .each_tick = true,
     .resets = true,
     .reset_given = 0,
     .gradient_clip = 1e6},
    {.text = "constant zoneout, clip",
     .fed = 0,
     .masks = {kConstant, kConstant},
     .cell_clip = 0.3,
     .squash = {kG1997, kTanh}},
    {.text = "truncated", .resets = true, .reset_given = 1, .truncated = true, .all_states = true},
    {.text = "gradient clip",
     .b_ih = false,
     .b_hh = false,
     .masks = {kNone, kNone, kGiven},
     .resets = true,
     .gradient_clip = 0.05},
    {.text = "final states alone, clip", .cell_clip = 0.4, .squash = {kIdentity, kRelu}, .grad_out = false},
    {.text = "drawn zoneout, resets",
     .masks = {kDrawn, kDrawn},
     .resets = true,
     .reset_given = 2,
     .cell_clip = 0.5,
     .all_states = true,
     .grad_final = false,
     .saved_gap = 1},
    {.text = "everything",
     .masks = {kDrawn, kGiven, kDrawn, kGiven},
     .each_tick = true,
     .resets = true,
     .cell_clip = 0.6,
     .gradient_clip = 0.2,
     .all_states = true},
    {.text = "everything, truncated",
     .fed = 1,
     .masks = {kGiven, kDrawn, kGiven, kDrawn},
     .resets = true,
     .cell_clip = 0.6,
     .truncated = true,
     .squash = {kRelu, kIdentity}},
    {.text = "nothing feeds back", .fed = 0, .masks = {kNone, kNone, kDrawn}, .resets = true, .all_states = true},
};

}  // namespace driver::layers
