// The ops of the Neural Turing Machine: `ntm`, a whole sequence, and `ntm_step`, one tick of its heads.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "cpu/isa.h"
#ifdef RNN_CUDA
#include "cuda/layer.h"
#endif
#include "tensors.h"

namespace rnn {
namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;

// What rnnkernels.options.Conventions says, in the order of its method `flat`.
enum Number { kEps, kSharpenEps, kHeadClip, kOutputClip, kNumbers };
enum Choice {
  kController,
  kRecurrent,
  kLayers,
  kReadHeads,
  kWriteHeads,
  kShiftRange,
  kOrder,
  kGuard,
  kReversed,
  kTanhKey,
  kTanhAdd,
  kActivated,
  kRecompute,
  kChoices
};
#define RNN_NTM_CONFIG ", float[] numbers, int[] choices"

Machine machine_of(const std::string& op, at::IntArrayRef choices, at::ArrayRef<double> numbers) {
  TORCH_CHECK(choices.size() == kChoices && numbers.size() == kNumbers, op, ": expected ", int(kNumbers),
              " numbers and ", int(kChoices), " choices, got ", numbers.size(), " and ", choices.size());
  auto within = [&](int choice, int64_t low, int64_t high, const char* name) {
    TORCH_CHECK(choices[choice] >= low && choices[choice] <= high, op, ": ", name, ": expected ", low, " to ", high,
                ", got ", choices[choice]);
    return static_cast<int>(choices[choice]);
  };
  Machine m{};
  m.controller = within(kController, 0, controller_count() - 1, "controller");
  m.recurrent = choices[kRecurrent];
  m.layers = within(kLayers, 0, kMaxControllerLayers, "controller_layers");
  m.reads = within(kReadHeads, 0, 1 << 16, "read_heads");
  m.writes = within(kWriteHeads, 0, 1 << 16, "write_heads");
  m.shift = {within(kShiftRange, 0, 1 << 16, "shift_range"), choices[kReversed] != 0};
  m.order = static_cast<Order>(within(kOrder, 0, kOrders - 1, "order"));
  m.guard = static_cast<Guard>(within(kGuard, 0, kGuards - 1, "similarity_guard"));
  m.tanh_key = choices[kTanhKey];
  m.tanh_add = choices[kTanhAdd];
  m.activated = choices[kActivated];
  within(kRecompute, 0, kMaxSize, "recompute");
  TORCH_CHECK(m.heads() > 0, op, ": read_heads, write_heads: expected at least one head, got none");
  for (double n : numbers) TORCH_CHECK(n >= 0, op, ": numbers: expected 0 or more, got ", n);
  m.eps = numbers[kEps];
  m.sharpen_eps = numbers[kSharpenEps];
  m.head_clip = numbers[kHeadClip] > 0 ? numbers[kHeadClip] : std::numeric_limits<double>::infinity();
  return m;
}

// What both ops have in common: a machine, its states, and the frames of its walk. A state is absent where the machine
// has none such.
struct Walk {
  std::string op;
  Machine m;
  const Facts& f;
  at::ScalarType dtype = at::kFloat;
  int64_t T = 1, B = 0, recompute = 0;
  Tensor x;
  Tensor first[kNtmStates];
  std::vector<int64_t> rows_at, frame_at, order;
  mutable Tensor lists;              // the same on a card
  std::vector<Tensor> weight, bias;  // of the controller's layers
  Tensor head_weight, head_bias;

  Walk(std::string name, at::IntArrayRef choices, at::ArrayRef<double> numbers)
      : op(std::move(name)), m(machine_of(op, choices, numbers)), f(controller_facts(m.controller)) {
    recompute = choices[kRecompute];
  }

  at::TensorOptions options() const { return at::TensorOptions().dtype(dtype).device(x.device()); }

  void expect(const char* what, const Tensor& t, at::IntArrayRef sizes) const {
    TORCH_CHECK(t.sizes() == sizes, op, ": ", what, ": expected shape ", shape_text(sizes), ", got ",
                shape_text(t.sizes()));
    TORCH_CHECK(t.scalar_type() == dtype, op, ": ", what, ": expected dtype ", dtype, " as ", x_name(), " has, got ",
                t.scalar_type());
    TORCH_CHECK(t.device() == x.device(), op, ": ", what, ": expected device ", x.device(), " as ", x_name(),
                " has, got ", t.device());
  }
  const char* x_name() const { return m.layers ? "x" : "parameters"; }

  void take_x(const Tensor& t) {
    x = t;
    dtype = t.scalar_type();
    TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble, op, ": ", x_name(), ": expected float32 or float64, got ",
                dtype);
  }
  void expect_sizes(at::IntArrayRef sizes) const {
    for (int64_t n : sizes) TORCH_CHECK(n <= kMaxSize, op, ": expected sizes of at most ", kMaxSize, ", got ", n);
  }
  void take_memory(const Tensor& memory, const Tensor& weightings) {
    TORCH_CHECK(memory.dim() == 3 && memory.size(1) > 0 && memory.size(2) > 0, op,
                ": memory0: expected shape (B, N, M) of at least one row and one number, got ",
                shape_text(memory.sizes()));
    expect_sizes(memory.sizes());
    m.rows = memory.size(1);
    m.width = memory.size(2);
    expect("memory0", memory, {B, m.rows, m.width});
    expect("weightings0", weightings, {B, m.heads(), m.rows});
    first[kMemory] = memory.contiguous();
    first[kWeightings] = weightings.contiguous();
  }

  int64_t frames() const { return frame_at.empty() ? T * B : frame_at.back(); }
  Timeline timeline() const {
    bool sorted = !order.empty();
    Timeline time{};
    time.ticks = time.end = T;
    time.batch = B;
    time.tick_stride = B;
    if (!sorted) return time;
    time.rows_at = rows_at.data();
    time.frame_at = frame_at.data();
    time.row_place = time.order = order.data();
    return time;
  }

  Record record() const { return Record(m, f); }
  int64_t state_numbers() const {  // of all rows
    int64_t n = 0;
    over_states([&](int s) { n += c10::multiply_integers(state_sizes(s)); });
    return n;
  }
  int64_t piece() const {
    if (!recompute) return std::max<int64_t>(T, 1);
    return recompute > 1 ? std::min(recompute, std::max<int64_t>(T, 1)) : recompute_piece(T, B, record().numbers);
  }
  int64_t pieces() const { return (T + piece() - 1) / piece(); }
  std::vector<int64_t> saved_sizes() const {
    return recompute ? std::vector<int64_t>{pieces(), state_numbers()}
                     : std::vector<int64_t>{record().rows(T, B), record().numbers};
  }

  bool has_state(int s) const {
    if (s >= kMemory) return s != kReads || m.layers;  // without a controller nobody reads what was read before
    return m.layers && s < f.states && (s > 0 || m.recurrent);
  }
  std::vector<int64_t> state_sizes(int s) const {
    if (s < kMemory) return {m.layers, B, m.hidden};
    if (s == kMemory) return {B, m.rows, m.width};
    return s == kReads ? std::vector<int64_t>{B, m.reads, m.width} : std::vector<int64_t>{B, m.heads(), m.rows};
  }
  // Calls g(s) for the states there are.
  template <class G> void over_states(G&& g) const {
    for (int s = 0; s < kNtmStates; ++s)
      if (has_state(s)) g(s);
  }

  template <class Real> NtmCall<Real> call(int64_t begin, int64_t end) const {
    NtmCall<Real> c{};
    c.machine = m;
    c.time = timeline();
    c.time.begin = begin;
    c.time.end = end;
    c.x = x.const_data_ptr<Real>();
    c.x_tick = x.dim() == 3 ? x.stride(0) : 0;
    c.x_row = x.stride(x.dim() - 2);
    for (int l = 0; l < m.layers; ++l) c.weight[l] = read<Real>(weight[l]), c.bias[l] = read<Real>(bias[l]);
    c.head_weight = read<Real>(head_weight);
    c.head_bias = read<Real>(head_bias);
    over_states([&](int s) { c.first[s] = read<Real>(first[s]); });
    return c;
  }
};

// Rows are dealt to threads by their ticks.
std::vector<int64_t> deal(const Timeline& time, int threads) {
  std::vector<int64_t> from{0};
  double total = 0, done = 0;
  for (int64_t t = time.begin; t < time.end; ++t) total += static_cast<double>(time.rows(t));
  for (int64_t b = 0; b < time.batch; ++b) {
    while (static_cast<int>(from.size()) < threads && done >= total * static_cast<double>(from.size()) / threads)
      from.push_back(b);
    for (int64_t t = time.begin; t < time.end && time.rows(t) > b; ++t) done += 1;
  }
  from.resize(threads + 1, time.batch);
  return from;
}

template <class Real> void launch(const Walk& w, bool forward, const NtmCall<Real>& c) {
  const char* precision = sizeof(Real) == 8 ? "float64" : "float32";
#ifdef RNN_CUDA
  if (on_card(w.x)) {
    auto run = forward ? &cuda::ntm_forward<Real> : &cuda::ntm_backward<Real>;
    return remember(
        {w.op, "cuda", precision, run(w.f, c, on_card(w.timeline(), w.x.device(), w.lists), w.x.device()), 1});
  }
#endif
  const Isa isa = current_isa();
  const NtmKernels<Real>& k = ntm_kernels<Real>(isa);
  const Machine& m = w.m;
  double work = static_cast<double>(m.heads() * m.rows * (m.width + 16) + m.parameters() * m.hidden);
  for (int l = 0; l < m.layers; ++l) work += static_cast<double>(w.f.gates * m.hidden * m.layer_width(l));
  constexpr double kWorthATeam = 2e5;  // multiply-adds, an estimate
  bool alone = at::in_parallel_region() || work * static_cast<double>(c.time.frame(c.time.end)) < kWorthATeam;
  int threads = static_cast<int>(std::min<int64_t>(alone ? 1 : at::get_num_threads(), std::max<int64_t>(w.B, 1)));
  for (;;) {
    std::vector<int64_t> from = deal(c.time, threads);
    int64_t groups = (w.B / threads + kernels<Real>(isa).tile.rows - 1) / kernels<Real>(isa).tile.rows;
    NtmPlan plan{threads, from.data(), c.time.ticks * std::max<int64_t>(groups, 1) >= 4};
    auto bytes = static_cast<int64_t>((forward ? k.forward_space : k.backward_space)(w.f, c, plan));
    Tensor space = fresh({bytes}, at::TensorOptions().dtype(at::kByte));
    char* base = static_cast<char*>(space.mutable_data_ptr());
    Meeting meeting(1, threads);
    auto body = [&](int thread) { (forward ? k.forward : k.backward)(w.f, c, plan, base, meeting, thread); };
    if (run_team(threads, body))
      return remember({w.op, isa_name(isa), precision,
                       "rows " + std::to_string(threads) + (plan.packed ? ", packed" : ", unpacked"), threads});
    threads = 1;
  }
}

// States in one row of what is kept between pieces.
template <class Real, class Pointers> void point(const Walk& w, Pointers& to, Real* at) {
  w.over_states([&](int s) {
    to[s] = at;
    at += c10::multiply_integers(w.state_sizes(s));
  });
}

// ---------------------------------------------------------------------------------------------------- a whole sequence

#define RNN_NTM_DATA                                                                                                  \
  "Tensor x, Tensor controller, Tensor w_heads, Tensor? b_heads, Tensor w_out, Tensor? b_out, Tensor h0, Tensor c0, " \
  "Tensor memory0, Tensor reads0, Tensor weightings0"

struct Sequence : Walk {
  Tensor w_out, b_out;
  int64_t outputs;
  double output_clip;
  Tensor places;  // of frames among (T, B), where rows have lengths

  Sequence(std::string name, const Tensor& x_, const Tensor& controller_, const Tensor& w_heads, const Maybe& b_heads,
           const Tensor& w_out_, const Maybe& b_out_, const Tensor& h0_, const Tensor& c0_, const Tensor& memory,
           const Tensor& reads, const Tensor& weightings, const Maybe& lengths, at::ArrayRef<double> numbers,
           at::IntArrayRef choices)
      : Walk(std::move(name), choices, numbers) {
    TORCH_CHECK(m.layers > 0, op, ": controller_layers: expected 1 or more, got 0");
    take_x(x_);
    TORCH_CHECK(x.dim() == 3, op, ": x: expected 3 dimensions (T, B, I), got shape ", shape_text(x.sizes()));
    expect_sizes(x.sizes());
    T = x.size(0);
    B = x.size(1);
    m.inputs = x.size(2);
    if (m.inputs > 1 && x.stride(2) != 1) x = x.contiguous();
    TORCH_CHECK(w_heads.dim() == 2 && w_heads.size(1) > 0, op, ": w_heads: expected shape (P, H), got ",
                shape_text(w_heads.sizes()));
    expect_sizes(w_heads.sizes());
    m.hidden = w_heads.size(1);
    take_memory(memory, weightings);
    expect("w_heads", w_heads, {m.parameters(), m.hidden});
    head_weight = w_heads.contiguous();
    if (b_heads) {
      expect("b_heads", *b_heads, {m.parameters()});
      head_bias = b_heads->contiguous();
    }
    int64_t all = 0;
    for (int l = 0; l < m.layers; ++l) all += f.gates * m.hidden * (m.layer_width(l) + 1);
    expect("controller", controller_, {all});
    Tensor flat = controller_.contiguous();
    for (int64_t l = 0, at = 0; l < m.layers; ++l) {
      int64_t gates = f.gates * m.hidden, width = m.layer_width(static_cast<int>(l));
      weight.push_back(flat.narrow(0, at, gates * width).view({gates, width}));
      bias.push_back(flat.narrow(0, at + gates * width, gates));
      at += gates * (width + 1);
    }
    TORCH_CHECK(w_out_.dim() == 2, op, ": w_out: expected 2 dimensions (O, H + R M), got shape ",
                shape_text(w_out_.sizes()));
    expect_sizes(w_out_.sizes());
    outputs = w_out_.size(0);
    expect("w_out", w_out_, {outputs, m.features()});
    w_out = w_out_;
    if (b_out_) {
      expect("b_out", *b_out_, {outputs});
      b_out = *b_out_;
    }
    auto none = [&](int s) { return has_state(s) ? state_sizes(s) : std::vector<int64_t>{0, B, m.hidden}; };
    expect("h0", h0_, none(0));
    expect("c0", c0_, none(1));
    expect("reads0", reads, state_sizes(kReads));
    first[0] = h0_.contiguous();
    first[1] = c0_.contiguous();
    first[kReads] = reads.contiguous();
    output_clip = numbers[kOutputClip];
    if (!lengths) return;
    sort_by_length(checked_lengths(op, *lengths, B, T), T, order, rows_at, frame_at);
    places = at::empty({frames()}, at::TensorOptions().dtype(at::kLong).pinned_memory(x.is_cuda()));
    int64_t* place = places.mutable_data_ptr<int64_t>();
    Timeline time = timeline();
    for (int64_t t = 0; t < T && B; ++t)
      for (int64_t b = 0; b < time.rows(t); ++b) *place++ = time.place(t, b);
    places = places.to(x.device(), /*non_blocking=*/true);
  }

  // Frames of the ticks [begin, end).
  std::pair<int64_t, int64_t> span(int64_t begin, int64_t end) const {
    if (frame_at.empty()) return {begin * B, (end - begin) * B};
    return {frame_at[begin], frame_at[end] - frame_at[begin]};
  }

  void put_outputs(const Tensor& features, int64_t begin, int64_t end, Tensor& y) const {
    auto [from, n] = span(begin, end);
    Tensor of = features.narrow(0, 0, n), flat = y.view({T * B, outputs});
    Tensor value = b_out.defined() ? at::addmm(b_out, of, w_out.t()) : at::mm(of, w_out.t());
    if (output_clip > 0) value.clamp_(-output_clip, output_clip);
    places.defined() ? flat.index_copy_(0, places.narrow(0, from, n), value) : flat.narrow(0, from, n).copy_(value);
  }
  // The gradient of the outputs of these ticks, by frame.
  Tensor output_gradient(const Tensor& grad_y, const Tensor& y, int64_t begin, int64_t end) const {
    auto [from, n] = span(begin, end);
    auto rows = [&](const Tensor& t) {
      Tensor flat = t.reshape({T * B, outputs});
      return places.defined() ? flat.index_select(0, places.narrow(0, from, n)) : flat.narrow(0, from, n);
    };
    return output_clip > 0 ? rows(grad_y) * (rows(y).abs() < output_clip) : rows(grad_y);
  }
};

using States = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class Real> void run_forward(const Sequence& d, bool save, Tensor& y, Tensor* final, Tensor& saved) {
  const bool checkpoints = save && d.recompute;
  const bool records = save && !checkpoints;
  const int64_t step = checkpoints ? d.piece() : std::max<int64_t>(d.T, 1), F = d.m.features();
  Tensor features = records ? saved.narrow(1, d.record().features, F) : fresh({step * d.B, F}, d.options());
  for (int64_t at = 0, piece = 0; at < d.T; at += step, ++piece) {
    int64_t end = std::min(d.T, at + step);
    NtmCall<Real> c = d.call<Real>(at, end);
    c.features = data<Real>(features);
    c.ld_features = features.stride(0);
    if (records) c.saved = data<Real>(saved);
    if (piece > 0) point<const Real>(d, c.first, read<Real>(saved) + (piece - 1) * saved.size(1));
    if (checkpoints)
      point<Real>(d, c.final, data<Real>(saved) + piece * saved.size(1));
    else
      d.over_states([&](int s) { c.final[s] = data<Real>(final[s]); });
    launch(d, true, c);
    if (checkpoints && end == d.T) {
      int64_t from = 0;
      d.over_states([&](int s) {
        final[s].copy_(saved.select(0, piece).narrow(0, from, final[s].numel()).view(final[s].sizes()));
        from += final[s].numel();
      });
    }
    d.put_outputs(features, at, end, y);
  }
}

States forward(const Tensor& x, const Tensor& controller, const Tensor& w_heads, const Maybe& b_heads,
               const Tensor& w_out, const Maybe& b_out, const Tensor& h0, const Tensor& c0, const Tensor& memory,
               const Tensor& reads, const Tensor& weightings, const Maybe& lengths, at::ArrayRef<double> numbers,
               at::IntArrayRef choices, bool save) {
  c10::impl::ExcludeDispatchKeyGuard in_its_own_precision(c10::autocast_dispatch_keyset);
  c10::DeviceGuard guard(x.device());
  Sequence d("rnnkernels::ntm", x, controller, w_heads, b_heads, w_out, b_out, h0, c0, memory, reads, weightings,
             lengths, numbers, choices);
  Tensor y = d.places.defined() ? at::zeros({d.T, d.B, d.outputs}, d.options())
                                : at::empty({d.T, d.B, d.outputs}, d.options());
  Tensor saved = save ? fresh(d.saved_sizes(), d.options()) : at::empty({0}, d.options());
  Tensor final[kNtmStates];
  const bool runs = d.frames() > 0;
  for (int s : {0, 1, int(kMemory), int(kReads), int(kWeightings)})
    final[s] = runs ? at::empty_like(d.first[s]) : d.first[s].clone();
  if (runs) {
    if (d.dtype == at::kDouble)
      run_forward<double>(d, save, y, final, saved);
    else
      run_forward<float>(d, save, y, final, saved);
  }
  return {y, final[0], final[1], final[kMemory], final[kReads], final[kWeightings], saved};
}

struct Gradients {
  Tensor y, state[kNtmStates];  // given, or undefined
  Tensor x, controller, w_heads, b_heads, w_out, b_out, first[kNtmStates];
};

template <class Real>
void run_backward(const Sequence& d, const Tensor& y, const Tensor& saved, bool needs_w, Gradients& g) {
  const Machine& m = d.m;
  const Record at_record = d.record();
  const int64_t step = d.piece(), most = step * d.B, gates = d.f.gates * m.hidden, F = m.features();
  Tensor records = d.recompute ? fresh({at_record.rows(step, d.B), at_record.numbers}, d.options()) : saved;
  Tensor features = records.narrow(1, at_record.features, F);
  std::vector<Tensor> grad_gates;
  for (int l = 0; l < m.layers; ++l) grad_gates.push_back(fresh({most, gates}, d.options()));
  Tensor grad_parameters = fresh({most, m.parameters()}, d.options());
  Tensor ends, carry[2];  // states and their gradients between pieces
  if (d.recompute) {
    ends = at::empty({d.state_numbers()}, d.options());
    for (auto& c : carry) c = at::empty_like(ends);
  }
  for (int64_t piece = d.pieces() - 1, turn = 0; piece >= 0; --piece) {
    const int64_t begin = piece * step, end = std::min(d.T, begin + step), n = d.span(begin, end).second;
    if (turn == 0 && n == 0 && piece > 0) continue;  // every row ended before
    NtmCall<Real> c = d.call<Real>(begin, end);
    if (piece > 0) point<const Real>(d, c.first, read<Real>(saved) + (piece - 1) * saved.size(1));
    c.saved = const_cast<Real*>(read<Real>(records));
    if (d.recompute) {
      c.features = data<Real>(features);
      c.ld_features = at_record.numbers;
      point<Real>(d, c.final, data<Real>(ends));
      launch(d, true, c);
    }
    Tensor grad_features, grad_y;
    if (g.y.defined()) {
      grad_y = d.output_gradient(g.y, y, begin, end);
      grad_features = at::mm(grad_y, d.w_out);
    } else {
      grad_features = at::zeros({n, F}, d.options());
    }
    c.grad_features = read<Real>(grad_features);
    if (turn > 0)
      point<const Real>(d, c.grad_final, read<Real>(carry[turn & 1]));
    else
      d.over_states([&](int s) { c.grad_final[s] = read<Real>(g.state[s]); });
    if (piece > 0)
      point<Real>(d, c.grad_first, data<Real>(carry[(turn + 1) & 1]));
    else
      d.over_states([&](int s) { c.grad_first[s] = data<Real>(g.first[s]); });
    c.grad_x = data<Real>(g.x);
    for (int l = 0; l < m.layers; ++l) c.grad_gates[l] = data<Real>(grad_gates[l]);
    c.grad_parameters = data<Real>(grad_parameters);
    launch(d, false, c);
    if (needs_w && n > 0) {
      Tensor frames = records.narrow(0, 0, n), of_features = features.narrow(0, 0, n);
      const Real beta = turn > 0;  // what there is counts only from the second piece on
      auto add = [&](Tensor& to, const Tensor& left, const Tensor& right) {
        at::addmm_out(to, to, left.t(), right, beta);
      };
      auto add_sum = [&](Tensor& to, const Tensor& t) {
        Tensor sum = t.sum(0);
        turn > 0 ? to.add_(sum) : to.copy_(sum);
      };
      for (int64_t l = 0, at = 0; l < m.layers; ++l) {
        int64_t width = m.layer_width(static_cast<int>(l));
        Tensor dgates = grad_gates[l].narrow(0, 0, n);
        Tensor of_weight = g.controller.narrow(0, at, gates * width).view({gates, width});
        Tensor of_bias = g.controller.narrow(0, at + gates * width, gates);
        add(of_weight, dgates, frames.narrow(1, at_record.layer[l], width));
        add_sum(of_bias, dgates);
        at += gates * (width + 1);
      }
      Tensor dparameters = grad_parameters.narrow(0, 0, n);
      add(g.w_heads, dparameters, of_features.narrow(1, 0, m.hidden));
      if (g.b_heads.defined()) add_sum(g.b_heads, dparameters);
      if (grad_y.defined()) {
        add(g.w_out, grad_y, of_features);
        if (g.b_out.defined()) add_sum(g.b_out, grad_y);
      }
    }
    ++turn;
  }
}

using SequenceGradients =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

SequenceGradients backward(const Maybe& grad_y, const Maybe& grad_h, const Maybe& grad_c, const Maybe& grad_memory,
                           const Maybe& grad_reads, const Maybe& grad_weightings, const Tensor& x,
                           const Tensor& controller, const Tensor& w_heads, const Maybe& b_heads, const Tensor& w_out,
                           const Maybe& b_out, const Tensor& h0, const Tensor& c0, const Tensor& memory,
                           const Tensor& reads, const Tensor& weightings, const Tensor& y, const Tensor& saved,
                           const Maybe& lengths, at::ArrayRef<double> numbers, at::IntArrayRef choices, bool needs_x,
                           bool needs_w) {
  c10::impl::ExcludeDispatchKeyGuard in_its_own_precision(c10::autocast_dispatch_keyset);
  c10::DeviceGuard guard(x.device());
  Sequence d("rnnkernels::ntm_backward", x, controller, w_heads, b_heads, w_out, b_out, h0, c0, memory, reads,
             weightings, lengths, numbers, choices);
  d.expect("y", y, {d.T, d.B, d.outputs});
  d.expect("saved", saved, d.saved_sizes());
  const bool runs = d.frames() > 0;
  Gradients g;
  if (grad_y) {
    d.expect("grad_y", *grad_y, {d.T, d.B, d.outputs});
    g.y = *grad_y;
  }
  auto take = [&](int s, const char* what, const Maybe& t) {
    if (t) d.expect(what, *t, d.first[s].sizes());
    if (t) g.state[s] = t->contiguous();
    g.first[s] = runs ? at::empty_like(d.first[s]) : t ? g.state[s].clone() : at::zeros_like(d.first[s]);
  };
  take(0, "grad_h_n", grad_h);
  take(1, "grad_c_n", grad_c);
  take(kMemory, "grad_memory_n", grad_memory);
  take(kReads, "grad_reads_n", grad_reads);
  take(kWeightings, "grad_weightings_n", grad_weightings);
  auto make = [&](bool wanted, at::IntArrayRef sizes, bool zero) {
    if (!wanted) return Tensor();
    return zero ? at::zeros(sizes, d.options()) : at::empty(sizes, d.options());
  };
  g.x = make(needs_x, {d.T, d.B, d.m.inputs}, !runs || d.places.defined());
  g.controller = make(needs_w, controller.sizes(), !runs);
  g.w_heads = make(needs_w, w_heads.sizes(), !runs);
  if (b_heads) g.b_heads = make(needs_w, b_heads->sizes(), !runs);
  g.w_out = make(needs_w, w_out.sizes(), !runs || !grad_y);
  if (b_out) g.b_out = make(needs_w, b_out->sizes(), !runs || !grad_y);
  if (runs) {
    Tensor dense = saved.contiguous();
    if (d.dtype == at::kDouble)
      run_backward<double>(d, y, dense, needs_w, g);
    else
      run_backward<float>(d, y, dense, needs_w, g);
  }
  auto out = [&](const Tensor& t) { return t.defined() ? t : at::empty({0}, d.options()); };
  return {out(g.x),   out(g.controller), out(g.w_heads),   out(g.b_heads),  out(g.w_out),        out(g.b_out),
          g.first[0], g.first[1],        g.first[kMemory], g.first[kReads], g.first[kWeightings]};
}

// ---------------------------------------------------------------------------------------- one tick of all heads

struct Step : Walk {
  Step(std::string name, const Tensor& parameters, const Tensor& memory, const Tensor& weightings,
       at::ArrayRef<double> numbers, at::IntArrayRef choices)
      : Walk(std::move(name), choices, numbers) {
    TORCH_CHECK(m.layers == 0, op, ": controller_layers: expected 0, got ", m.layers);
    take_x(parameters);
    TORCH_CHECK(x.dim() == 2, op, ": parameters: expected 2 dimensions (B, P), got shape ", shape_text(x.sizes()));
    B = x.size(0);
    take_memory(memory, weightings);
    m.inputs = m.parameters();
    expect("parameters", x, {B, m.parameters()});
    x = x.contiguous();
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> step_forward(const Tensor& parameters, const Tensor& memory,
                                                        const Tensor& weightings, at::ArrayRef<double> numbers,
                                                        at::IntArrayRef choices, bool save) {
  c10::DeviceGuard guard(parameters.device());
  Step d("rnnkernels::ntm_step", parameters, memory, weightings, numbers, choices);
  Tensor reads = at::empty(d.state_sizes(kReads), d.options());
  Tensor after = at::empty_like(d.first[kMemory]), w = at::empty_like(d.first[kWeightings]);
  Tensor saved = save ? fresh({d.B, d.record().numbers}, d.options()) : at::empty({0}, d.options());
  auto run = [&]<class Real>(Real) {
    NtmCall<Real> c = d.call<Real>(0, 1);
    Tensor features = save ? saved.narrow(1, d.record().features, d.m.features()) : reads.flatten(1);
    c.features = data<Real>(features);
    c.ld_features = features.stride(0);
    c.final[kReads] = save ? data<Real>(reads) : nullptr;
    c.final[kMemory] = data<Real>(after);
    c.final[kWeightings] = data<Real>(w);
    c.saved = save ? data<Real>(saved) : nullptr;
    launch(d, true, c);
  };
  if (d.B) d.dtype == at::kDouble ? run(double()) : run(float());
  return {reads, after, w, saved};
}

std::tuple<Tensor, Tensor, Tensor> step_backward(const Maybe& grad_reads, const Maybe& grad_memory,
                                                 const Maybe& grad_weightings, const Tensor& parameters,
                                                 const Tensor& memory, const Tensor& weightings, const Tensor& reads,
                                                 const Tensor& saved, at::ArrayRef<double> numbers,
                                                 at::IntArrayRef choices, bool needs_x, bool) {
  c10::DeviceGuard guard(parameters.device());
  Step d("rnnkernels::ntm_step_backward", parameters, memory, weightings, numbers, choices);
  d.expect("reads", reads, d.state_sizes(kReads));
  d.expect("saved", saved, {d.B, d.record().numbers});
  auto take = [&](const char* what, const Maybe& t, at::IntArrayRef sizes) {
    if (t) d.expect(what, *t, sizes);
    return t ? t->contiguous() : Tensor();
  };
  Tensor dreads = take("grad_reads", grad_reads, d.state_sizes(kReads));
  Tensor dmemory = take("grad_memory_n", grad_memory, d.state_sizes(kMemory));
  Tensor dw = take("grad_weightings_n", grad_weightings, d.state_sizes(kWeightings));
  if (!dreads.defined()) dreads = at::zeros(d.state_sizes(kReads), d.options());
  Tensor g[] = {at::empty_like(d.x), at::empty_like(d.first[kMemory]), at::empty_like(d.first[kWeightings])};
  Tensor dense = saved.contiguous();
  auto run = [&]<class Real>(Real) {
    NtmCall<Real> c = d.call<Real>(0, 1);
    c.saved = const_cast<Real*>(read<Real>(dense));
    c.grad_features = read<Real>(dreads);
    c.grad_final[kMemory] = read<Real>(dmemory);
    c.grad_final[kWeightings] = read<Real>(dw);
    c.grad_x = data<Real>(g[0]);
    c.grad_first[kMemory] = data<Real>(g[1]);
    c.grad_first[kWeightings] = data<Real>(g[2]);
    launch(d, false, c);
  };
  if (d.B) d.dtype == at::kDouble ? run(double()) : run(float());
  return {needs_x ? g[0] : at::empty({0}, d.options()), g[1], g[2]};
}

}  // namespace

NtmRecord ntm_record(int64_t inputs, int64_t hidden, int64_t rows, int64_t width, const std::vector<int64_t>& choices) {
  Machine m = machine_of("rnnkernels::ntm", choices, std::vector<double>(kNumbers, 0.0));
  for (int64_t n : {inputs, hidden, rows, width})
    TORCH_CHECK(n >= 0 && n <= kMaxSize, "rnnkernels: ntm_record: expected sizes of 0 to ", kMaxSize, ", got ", n);
  m.inputs = inputs, m.hidden = hidden, m.rows = rows, m.width = width;
  Record r(m, controller_facts(m.controller));
  return {r.numbers, r.features, r.values, r.weightings, m.padded_rows(), Record::kTicks, r.chunks};
}

TORCH_LIBRARY_FRAGMENT(rnnkernels, m) {
  m.def(
      "ntm(" RNN_NTM_DATA ", Tensor? lengths" RNN_NTM_CONFIG
      ", bool save=False) -> (Tensor y, Tensor h_n, Tensor c_n, Tensor memory_n, Tensor reads_n, Tensor weightings_n, "
      "Tensor saved)");
  m.def(
      "ntm_backward(Tensor? grad_y, Tensor? grad_h_n, Tensor? grad_c_n, Tensor? grad_memory_n, Tensor? grad_reads_n, "
      "Tensor? grad_weightings_n, " RNN_NTM_DATA ", Tensor y, Tensor saved, Tensor? lengths" RNN_NTM_CONFIG
      ", bool needs_x=True, bool needs_w=True) -> (Tensor grad_x, Tensor grad_controller, Tensor grad_w_heads, Tensor "
      "grad_b_heads, Tensor grad_w_out, Tensor grad_b_out, Tensor grad_h0, Tensor grad_c0, Tensor grad_memory0, Tensor "
      "grad_reads0, Tensor grad_weightings0)");
  m.def("ntm_step(Tensor parameters, Tensor memory0, Tensor weightings0" RNN_NTM_CONFIG
        ", bool save=False) -> (Tensor reads, Tensor memory_n, Tensor weightings_n, Tensor saved)");
  m.def(
      "ntm_step_backward(Tensor? grad_reads, Tensor? grad_memory_n, Tensor? grad_weightings_n, Tensor parameters, "
      "Tensor memory0, Tensor weightings0, Tensor reads, Tensor saved" RNN_NTM_CONFIG
      ", bool needs_x=True, bool needs_w=True) -> (Tensor grad_parameters, Tensor grad_memory0, Tensor "
      "grad_weightings0)");
}

void register_ntm(torch::Library& m) {
  m.impl("ntm", &forward);
  m.impl("ntm_backward", &backward);
  m.impl("ntm_step", &step_forward);
  m.impl("ntm_step_backward", &step_backward);
}

TORCH_LIBRARY_IMPL(rnnkernels, CPU, m) { register_ntm(m); }
#if defined(RNN_CUDA) && !defined(RNN_CUDA_ON_CPU)
TORCH_LIBRARY_IMPL(rnnkernels, CUDA, m) { register_ntm(m); }
#endif

}  // namespace rnn
