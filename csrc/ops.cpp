// The torch ops: schemas, checks and TORCH_LIBRARY, a loop over the cells. Tensors become plain structs here.
#include "ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <mutex>

#include "cpu/isa.h"
#include "cpu/plan.h"
#ifdef RNN_CUDA
#include "cuda/layer.h"
#endif
#include "tensors.h"

namespace rnn {
namespace {

using at::Tensor;
using torch::jit::Stack;

std::mutex last_mutex;
LastKernel last;

// ------------------------------------------------------------------------------------------------------------ schemas

std::string state_name(const Facts& f, int s) {
  return s == 0 ? "h" : s == f.cell ? "c" : std::string("s").append(std::to_string(s));
}

std::string per_state(const Facts& f, const char* before, const char* after, int from = 0) {
  std::string text;
  for (int s = from; s < f.states; ++s) text.append(before).append(state_name(f, s)).append(after);
  return text;
}

constexpr int kTensors = 7;  // before the states
std::string data_schema(const Facts& f) {
  return "Tensor x, Tensor w_ih, Tensor? w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr, Tensor? unit" +
         per_state(f, ", Tensor ", "0") + per_state(f, ", Tensor? reset_", "");
}

// What rnnkernels.options.Options says, in the order of its method `flat`.
constexpr int kConfig = 12;
constexpr const char* kConfigSchema =
    ", Tensor? batch_sizes=None, bool reverse=False, Tensor? lengths=None, Tensor? resets=None, Tensor? seed=None, "
    "Tensor? "
    "zoneout_mask=None, Tensor? zoneout_cell_mask=None, Tensor? recurrent_mask=None, Tensor? input_mask=None, Tensor? "
    "weight_mask=None, float[] numbers=[], int[] choices=[]";

std::string forward_schema(const Facts& f) {
  return std::string(f.name) + "(" + data_schema(f) + kConfigSchema +
         ", bool save=False, bool all_states=False) -> (Tensor out" + per_state(f, ", Tensor ", "_n") +
         per_state(f, ", Tensor ", "_all", 1) + ", Tensor saved)";
}

std::string backward_schema(const Facts& f) {
  return std::string(f.name) + "_backward(Tensor? grad_out" + per_state(f, ", Tensor? grad_", "_n") +
         per_state(f, ", Tensor? grad_", "_all", 1) + ", " + data_schema(f) + ", Tensor out, Tensor saved" +
         kConfigSchema +
         ", bool needs_x=True, bool needs_w=True) -> (Tensor grad_x, Tensor grad_w_ih, Tensor grad_w_hh, Tensor "
         "grad_b_ih, Tensor "
         "grad_b_hh, Tensor grad_w_hr, Tensor grad_unit" +
         per_state(f, ", Tensor grad_", "0") + per_state(f, ", Tensor grad_reset_", "") + ")";
}

// ---------------------------------------------------------------------------------------------------------- arguments

class Arguments {
 public:
  Arguments(Stack& stack, size_t n) : stack_(stack), at_(stack.size() - n), begin_(at_) {}
  std::optional<Tensor> maybe() {
    const c10::IValue& v = stack_[at_++];
    return v.isNone() ? std::nullopt : std::optional<Tensor>(v.toTensor());
  }
  Tensor tensor() { return stack_[at_++].toTensor(); }
  bool flag() { return stack_[at_++].toBool(); }
  std::vector<double> numbers() { return stack_[at_++].toDoubleVector(); }
  std::vector<int64_t> integers() { return stack_[at_++].toIntVector(); }
  void leave(std::vector<Tensor> results) {
    stack_.erase(stack_.begin() + begin_, stack_.end());
    for (auto& r : results) stack_.emplace_back(std::move(r));
  }

 private:
  Stack& stack_;
  size_t at_, begin_;
};

enum Number { kCellClip = kMasks, kGradientClip, kEps, kNumbers };  // the masks' probabilities come first
enum Choice { kStream, kStep, kTruncated, kSquashG, kSquashH, kBlockSize, kRecompute, kChoices };

// The tensors of one call, checked, dense, and in the precision the kernels run in.
struct Data {
  const Facts& f;
  std::string op;
  at::ScalarType dtype, compute, unit_dtype;
  int64_t T, B, I, H, P, frames;  // frames: of x
  int64_t fed = 0;                // numbers that feed back, as the kernels see them
  Tensor x, w_ih, lengths, batch_sizes, resets;
  std::optional<Tensor> w_hh, b_ih, b_hh, w_hr, unit, seed, masks[kMasks];
  std::vector<Tensor> first;
  std::vector<at::ScalarType> state_dtype;
  std::vector<std::optional<Tensor>> reset;
  std::vector<int64_t> rows_at, frame_at, row_place, order;
  bool reverse;
  double number[kNumbers] = {};
  int64_t choice[kChoices] = {};

  Data(const Facts& facts, std::string name) : f(facts), op(std::move(name)) {}

  void read_data(Arguments& a) {
    x = a.tensor();
    w_ih = a.tensor();
    for (auto* t : {&w_hh, &b_ih, &b_hh, &w_hr, &unit}) *t = a.maybe();
    for (int s = 0; s < f.states; ++s) first.push_back(a.tensor());
    for (int s = 0; s < f.states; ++s) reset.push_back(a.maybe());
  }

  void read_config(Arguments& a) {
    if (auto t = a.maybe()) batch_sizes = *t;
    reverse = a.flag();
    if (auto t = a.maybe()) lengths = *t;
    if (auto t = a.maybe()) resets = *t;
    seed = a.maybe();
    for (auto& m : masks) m = a.maybe();
    number[kEps] = 1e-5;
    choice[kBlockSize] = 1;
    choice[kSquashG] = choice[kSquashH] = -1;
    auto numbers = a.numbers();
    auto integers = a.integers();
    TORCH_CHECK(numbers.empty() || numbers.size() == kNumbers, op, ": numbers: expected none or ", int(kNumbers));
    TORCH_CHECK(integers.empty() || integers.size() == kChoices, op, ": choices: expected none or ", int(kChoices));
    std::copy(numbers.begin(), numbers.end(), number);
    std::copy(integers.begin(), integers.end(), choice);
  }

  bool is_flat() const { return x.dim() == 2; }  // frames, packed or one sequence after another
  int64_t blocks() const { return H / choice[kBlockSize]; }
  bool is_shared(int gate) const { return f.shared >> gate & 1u; }
  int64_t gate_rows(int gate) const { return is_shared(gate) ? blocks() : H; }
  int64_t rows_from(int gate) const {
    int64_t n = 0;
    for (int g = gate; g < f.gates; ++g) n += gate_rows(g);
    return n;
  }
  // Units of a state in the caller's tensors: a gate that feeds back is one of each memory block.
  bool is_gate_state(int s) const { return s > 0 && s < f.fed; }
  int64_t width(int s) const { return s == 0 ? P : is_gate_state(s) ? blocks() : H; }
  bool is_expanded() const { return choice[kBlockSize] > 1; }

  void check() {
    dtype = x.scalar_type();
    TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf, op,
                ": x: expected float32, float64, bfloat16 or float16, got ", dtype);
    compute = dtype == at::kDouble ? at::kDouble : at::kFloat;
    bool packed = batch_sizes.defined();
    TORCH_CHECK(!(packed && lengths.defined()), op, ": lengths: expected none beside batch_sizes");
    TORCH_CHECK(packed ? x.dim() == 2 : x.dim() == 3 || (x.dim() == 2 && lengths.defined()), op, ": x: expected ",
                packed ? "2 dimensions (N, I)" : "3 dimensions (T, B, I)", ", got shape ", shape_text(x.sizes()));
    TORCH_CHECK(first[0].dim() == 2, op, ": h0: expected shape (B, P), got ", shape_text(first[0].sizes()));
    TORCH_CHECK(!w_hr || f.projection, op, ": w_hr: this cell has no projection");
    // An empty tensor has no address, which is how the kernels are told that there is no projection.
    TORCH_CHECK(!w_hr || (w_hr->dim() == 2 && w_hr->numel() > 0), op,
                ": w_hr: expected shape (P, H) of at least one row and one column, got ",
                w_hr ? shape_text(w_hr->sizes()) : "");
    I = x.size(-1);
    P = w_hr ? w_hr->size(0) : first[0].size(1);
    H = w_hr ? w_hr->size(1) : P;
    B = is_flat() ? first[0].size(0) : x.size(1);
    TORCH_CHECK(choice[kBlockSize] >= 1 && (f.shared || choice[kBlockSize] == 1) && H % choice[kBlockSize] == 0, op,
                ": block_size: expected a divisor of the ", H, " cells", f.shared ? "" : ", 1 for this cell", ", got ",
                choice[kBlockSize]);
    for (int64_t n : {x.size(0), B, I, H, P})  // products of two do not overflow
      TORCH_CHECK(n <= kMaxSize, op, ": expected sizes of at most ", kMaxSize, ", got ", n);
    expect("w_ih", w_ih, {rows_from(f.first_input), I});
    if (w_hh) {
      int64_t all = P + std::max(f.fed - 1, 0) * blocks();
      TORCH_CHECK(f.fed > 0, op, ": w_hh: expected none, this cell has no recurrent product");
      TORCH_CHECK(w_hh->dim() == 2 && (w_hh->size(1) == all || w_hh->size(1) == P), op, ": w_hh: expected shape (",
                  rows_from(0), ", ", all, "), got ", shape_text(w_hh->sizes()));
      expect("w_hh", *w_hh, {rows_from(0), w_hh->size(1)});
      fed = w_hr || w_hh->size(1) == P ? P : f.fed * H;
    } else {
      TORCH_CHECK(f.fed == 0 || f.shared, op, ": w_hh: expected recurrent weights, got none");
    }
    if (b_ih) {
      bool gates_only = f.shared && b_ih->numel() == rows_from(0) - H;
      expect("b_ih", *b_ih, {gates_only ? rows_from(0) - H : rows_from(f.first_bias_ih)});
    }
    if (b_hh) expect("b_hh", *b_hh, {rows_from(f.first_bias_hh)});
    if (w_hr) expect("w_hr", *w_hr, {P, H});
    if (unit) expect("unit", *unit, {f.parameters * H}, /*may_be_wide=*/true);
    TORCH_CHECK(f.parameters == 0 || unit, op, ": unit: expected ", f.parameters, " parameters of each unit, got none");
    unit_dtype = unit ? unit->scalar_type() : dtype;
    for (int s = 0; s < f.states; ++s) {
      expect((state_name(f, s) + "0").c_str(), first[s], {B, width(s)}, /*may_be_wide=*/true);
      state_dtype.push_back(first[s].scalar_type());
      if (reset[s]) expect(("reset_" + state_name(f, s)).c_str(), *reset[s], {width(s)});
    }
    packed ? read_batch_sizes() : lengths.defined() ? read_lengths() : (void)(T = x.size(0));
    frames = is_flat() ? x.size(0) : T * B;
    if (resets.defined()) {
      TORCH_CHECK(resets.scalar_type() == at::kBool && resets.sizes() == x.sizes().slice(0, x.dim() - 1), op,
                  ": resets: expected bool of shape ", shape_text(x.sizes().slice(0, x.dim() - 1)), ", got ",
                  resets.scalar_type(), " of shape ", shape_text(resets.sizes()));
      expect_device("resets", resets);
      resets = resets.contiguous();
    }

    x = x.to(compute);
    if (I > 1 && x.stride(-1) != 1) x = x.contiguous();
    w_ih = dense(w_ih);
    for (auto* w : {&w_hh, &b_ih, &b_hh, &w_hr, &unit})
      if (*w) *w = dense(**w);
    for (auto& s : first) s = dense(s);
    for (auto& s : reset)
      if (s) *s = dense(*s);
    check_options();
  }

  Tensor dense(const Tensor& t) const { return t.to(compute).contiguous(); }

  // Beside an x in half precision, states and `unit` may be float32, which is what the kernels compute and carry.
  void expect(const char* what, const Tensor& t, at::IntArrayRef sizes, bool may_be_wide = false) const {
    TORCH_CHECK(t.sizes() == sizes, op, ": ", what, ": expected shape ", shape_text(sizes), ", got ",
                shape_text(t.sizes()));
    TORCH_CHECK(t.scalar_type() == dtype || (may_be_wide && t.scalar_type() == compute), op, ": ", what,
                ": expected dtype ", dtype, " as x has, got ", t.scalar_type());
    expect_device(what, t);
  }
  void expect_device(const char* what, const Tensor& t) const {
    TORCH_CHECK(t.device() == x.device(), op, ": ", what, ": expected device ", x.device(), " as x has, got ",
                t.device());
  }

  // What a kind of mask does in this call.
  template <class Real> typename Mask<Real>::Source source(int kind) const {
    if (masks[kind]) return Mask<Real>::kGiven;
    if (number[kind] == 0) return Mask<Real>::kNone;
    if (seed) return Mask<Real>::kDrawn;
    return kind == kZoneH || kind == kZoneCell ? Mask<Real>::kConstant : Mask<Real>::kNone;
  }
  bool keeps_raw_cell() const { return f.cell && source<float>(kZoneCell) != Mask<float>::kNone; }
  bool recomputes() const { return choice[kRecompute]; }

  // In half precision the caller's `out` is rounded: h goes on behind what is saved, by place.
  bool keeps_h() const { return dtype != compute && !recomputes(); }
  Kept kept() const { return Kept(f, w_hr.has_value(), keeps_raw_cell()); }
  int64_t saved_numbers() const { return kept().numbers(H) + keeps_h() * P; }
  Tensor kept_h(const Tensor& saved) const { return saved.narrow(1, kept().numbers(H), P); }

  // With activations recomputed, the states at the ends of pieces of the sequence are all that is saved. Flat inputs do
  // not tell how many ticks there are until their lengths are read, which a tracer cannot: frames bound them.
  int64_t piece_bound() const { return is_flat() && !batch_sizes.defined() ? x.size(0) : T; }
  int64_t piece() const {
    return choice[kRecompute] > 1 ? choice[kRecompute] : recompute_piece(piece_bound(), B, saved_numbers());
  }
  int64_t pieces() const { return (piece_bound() + piece() - 1) / piece(); }
  std::vector<int64_t> saved_sizes(bool save) const {
    if (!save) return {0};
    return recomputes() ? std::vector<int64_t>{pieces(), B * (P + (f.states - 1) * H)}
                        : std::vector<int64_t>{frames, saved_numbers()};
  }
  at::TensorOptions options() const { return at::TensorOptions().dtype(compute).device(x.device()); }
  // Past the end of a row nothing is computed, and zero is what the caller sees there.
  Tensor fresh_frames(at::IntArrayRef sizes) const {
    Tensor t = fresh(sizes, options());
    return lengths.defined() && !is_flat() ? t.zero_() : t;
  }
  // Frames that are computed: none where there is no tick, no row, or every length is 0.
  int64_t live_frames() const { return frame_at.empty() ? T * B : frame_at.back(); }
  std::vector<int64_t> frames_of(int64_t n) const {
    return is_flat() ? std::vector<int64_t>{frames, n} : std::vector<int64_t>{T, B, n};
  }

  Timeline timeline() const {
    bool packed = batch_sizes.defined(), sorted = packed || lengths.defined();
    return {.ticks = T,
            .batch = B,
            .rows_at = sorted ? rows_at.data() : nullptr,
            .frame_at = sorted ? frame_at.data() : nullptr,
            .reverse = reverse,
            .begin = 0,
            .end = T,
            .tick_place = packed ? frame_at.data() : nullptr,
            .row_place = lengths.defined() ? row_place.data() : nullptr,
            .tick_stride = is_flat() ? 1 : B,
            .order = lengths.defined() ? order.data() : nullptr};
  }
  Timeline card_timeline() const { return on_card(timeline(), x.device(), card_lists); }

 private:
  mutable Tensor card_lists;

  void check_options() {
    for (int k = 0; k < kMasks; ++k)
      TORCH_CHECK(number[k] >= 0 && number[k] <= 1, op, ": numbers: expected a probability in [0, 1], got ", number[k]);
    for (int k : {kCellClip, kGradientClip})
      TORCH_CHECK(number[k] >= 0, op, ": numbers: expected a bound of 0 (none) or more, got ", number[k]);
    for (int k : {kSquashG, kSquashH})
      TORCH_CHECK(choice[k] >= -1 && choice[k] < kSquashes, op, ": choices: expected a nonlinearity, got ", choice[k]);
    TORCH_CHECK(number[kEps] >= 0, op, ": eps: expected 0 or more, got ", number[kEps]);
    TORCH_CHECK(choice[kRecompute] >= 0 && choice[kRecompute] <= kMaxSize, op, ": recompute: expected 0 to ", kMaxSize,
                " ticks, got ", choice[kRecompute]);
    TORCH_CHECK(choice[kStream] >= 0 && choice[kStream] < (1 << 24), op, ": stream: expected 0 to 2^24 - 1, got ",
                choice[kStream]);
    if (seed) {
      TORCH_CHECK(seed->scalar_type() == at::kLong && seed->numel() == 1, op, ": seed: expected one int64 number, got ",
                  seed->scalar_type(), " of shape ", shape_text(seed->sizes()));
      if (!seed->is_cpu()) expect_device("seed", *seed);
    }
    TORCH_CHECK(!w_hr || source<float>(kZoneH) == Mask<float>::kNone, op,
                ": zoneout: expected none under a projection");
    TORCH_CHECK(f.cell || (source<float>(kZoneCell) == Mask<float>::kNone && number[kCellClip] == 0), op,
                ": zoneout_cell, cell_clip: expected none, this cell has no cell state");
    check_mask(kZoneH, H, false);
    check_mask(kZoneCell, H, false);
    check_mask(kDropFed, P, true);
    check_mask(kDropInput, I, true);
    if (masks[kDropWeight]) {
      TORCH_CHECK(w_hh && masks[kDropWeight]->sizes() == w_hh->sizes(), op,
                  ": weight_mask: expected the shape of w_hh");
      take_mask(kDropWeight);
    }
  }

  void check_mask(int kind, int64_t n, bool may_be_one) {
    if (!masks[kind]) return;
    Tensor& m = *masks[kind];
    std::vector<int64_t> each{T, B, n}, one{B, n};
    TORCH_CHECK(m.sizes() == at::IntArrayRef(each) || (may_be_one && m.sizes() == at::IntArrayRef(one)), op,
                ": mask: expected shape ", shape_text(each), may_be_one ? " or " + shape_text(one) : "", ", got ",
                shape_text(m.sizes()));
    take_mask(kind);
  }

  void take_mask(int kind) {
    constexpr const char* kName[] = {"zoneout_mask", "zoneout_cell_mask", "recurrent_mask", "input_mask",
                                     "weight_mask"};
    Tensor& m = *masks[kind];
    TORCH_CHECK(m.is_floating_point() || m.scalar_type() == at::kBool, op, ": ", kName[kind],
                ": expected bool or a floating point dtype, got ", m.scalar_type());
    expect_device(kName[kind], m);
    m = dense(m);
  }

  void read_batch_sizes() {
    TORCH_CHECK(batch_sizes.dim() == 1 && batch_sizes.scalar_type() == at::kLong && batch_sizes.device().is_cpu(), op,
                ": batch_sizes: expected int64 on the CPU of shape (T,), got ", batch_sizes.scalar_type(), " on ",
                batch_sizes.device(), " of shape ", shape_text(batch_sizes.sizes()));
    Tensor sizes = batch_sizes.contiguous();
    T = sizes.size(0);
    rows_at.assign(sizes.const_data_ptr<int64_t>(), sizes.const_data_ptr<int64_t>() + T);
    frame_at.assign(1, 0);
    for (int64_t t = 0; t < T; ++t) {
      TORCH_CHECK(rows_at[t] >= 0 && rows_at[t] <= (t ? rows_at[t - 1] : B), op, ": batch_sizes: expected at most ",
                  t ? rows_at[t - 1] : B, " rows at tick ", t, " (never more than before it), got ", rows_at[t]);
      frame_at.push_back(frame_at.back() + rows_at[t]);
    }
    TORCH_CHECK(frame_at.back() == x.size(0), op, ": batch_sizes: expected a sum of ", x.size(0),
                " as x has rows, got ", frame_at.back());
  }

  // Rows are walked from the longest to the shortest.
  void read_lengths() {
    const std::vector<int64_t> n = checked_lengths(op, lengths, B, x.size(0));
    std::vector<int64_t> starts(B + 1, 0);
    for (int64_t b = 0; b < B; ++b) starts[b + 1] = starts[b] + n[b];
    TORCH_CHECK(!is_flat() || starts[B] == x.size(0), op, ": lengths: expected a sum of ", x.size(0),
                " as x has rows, got ", starts[B]);
    T = !is_flat() ? x.size(0) : B ? *std::max_element(n.begin(), n.end()) : 0;
    sort_by_length(n, T, order, rows_at, frame_at);
    for (int64_t b : order) row_place.push_back(is_flat() ? starts[b] : b);
  }
};

// ------------------------------------------------------------------------------------------------- memory cell blocks

// The kernels know units, each with all its gates: the weights of a gate that a block shares are copied to each of its
// cells, and their gradients summed. A gate that feeds back does so from the first cell of its block alone. Networks of
// such blocks are small, and these loops are cheaper than one call of torch's.
template <class Real> class Expansion {
 public:
  explicit Expansion(const Data& data) : d(data), size(data.choice[kBlockSize]) {}

  // (rows of the gates from `gate` on, n) to (gates * H, n)
  Tensor rows(const Tensor& t, int gate, int64_t n) const {
    if (size == 1) return t;
    if (on_card(d.x)) return by_gates(t, gate, [&](const Tensor& of) { return of.repeat_interleave(size, 0); });
    Tensor to = at::empty(t.dim() == 2 ? std::vector<int64_t>{(d.f.gates - gate) * d.H, n}
                                       : std::vector<int64_t>{(d.f.gates - gate) * d.H},
                          d.options());
    Real* out = to.template mutable_data_ptr<Real>();
    const Real* in = t.const_data_ptr<Real>();
    over_rows(gate, [&](int64_t unit_row, int64_t row) { std::copy_n(in + row * n, n, out + unit_row * n); });
    return to;
  }
  Tensor fold_rows(const Tensor& g, int gate, int64_t n) const {
    if (size == 1) return g;
    if (on_card(d.x))
      return by_gates(g, gate, [&](const Tensor& of) { return of.unflatten(0, {-1, size}).sum(1); }, d.H);
    Tensor to =
        at::zeros(g.dim() == 2 ? std::vector<int64_t>{d.rows_from(gate), n} : std::vector<int64_t>{d.rows_from(gate)},
                  d.options());
    Real* out = to.template mutable_data_ptr<Real>();
    const Real* in = g.const_data_ptr<Real>();
    over_rows(gate, [&](int64_t unit_row, int64_t row) {
      for (int64_t j = 0; j < n; ++j) out[row * n + j] += in[unit_row * n + j];
    });
    return to;
  }

  // (rows, H and the blocks of each gate that feeds back) to (gates * H, F)
  Tensor weights(const Tensor& t) const {
    if (size == 1) return t;
    if (on_card(d.x)) {
      Tensor own = t.narrow(1, 0, d.H), of_gates = t.narrow(1, d.H, t.size(1) - d.H);
      return rows(at::cat({own, first_of_each(of_gates)}, 1), 0, d.fed);
    }
    Tensor to = at::zeros({d.f.gates * d.H, d.fed}, d.options());
    Real* out = to.template mutable_data_ptr<Real>();
    const Real* in = t.const_data_ptr<Real>();
    over_rows(0, [&](int64_t unit_row, int64_t row) {
      over_columns([&](int64_t unit_column, int64_t column) {
        out[unit_row * d.fed + unit_column] = in[row * t.size(1) + column];
      });
    });
    return to;
  }
  Tensor fold_weights(const Tensor& g) const {
    if (size == 1) return g;
    if (on_card(d.x)) {
      Tensor folded = fold_rows(g, 0, d.fed), of_gates = folded.narrow(1, d.H, d.fed - d.H);
      return at::cat({folded.narrow(1, 0, d.H), of_gates.unflatten(1, {-1, size}).select(2, 0)}, 1);
    }
    Tensor to = at::zeros(d.w_hh->sizes(), d.options());
    Real* out = to.template mutable_data_ptr<Real>();
    const Real* in = g.const_data_ptr<Real>();
    over_rows(0, [&](int64_t unit_row, int64_t row) {
      over_columns([&](int64_t unit_column, int64_t column) {
        out[row * to.size(1) + column] += in[unit_row * d.fed + unit_column];
      });
    });
    return to;
  }

  // A bias may be of the gates alone: the cells' rows are then zero.
  Tensor bias(const Tensor& t) const {
    if (!d.f.shared || t.size(0) == d.rows_from(0)) return rows(t, d.f.first_bias_ih, 1);
    int64_t before = free_gate();
    Tensor zeros = at::zeros({d.H}, d.options());
    return rows(at::cat({t.narrow(0, 0, before), zeros, t.narrow(0, before, t.size(0) - before)}), 0, 1);
  }
  Tensor fold_bias(const Tensor& g, int64_t n) const {
    Tensor folded = fold_rows(g, d.f.first_bias_ih, 1);
    if (!d.f.shared || n == d.rows_from(0)) return folded;
    int64_t before = free_gate();
    return at::cat({folded.narrow(0, 0, before), folded.narrow(0, before + d.H, n - before)});
  }

  // A gate's state (..., blocks) is that of all its cells (..., H). What arrives at it, arrives at the first.
  Tensor state(const Tensor& t, int s) const { return spread(t, s, true); }
  Tensor spread_gradient(const Tensor& g, int s) const { return spread(g, s, false); }
  Tensor pick_state(const Tensor& t, int s) const { return gather(t, s, false); }
  Tensor fold_gradient(const Tensor& g, int s) const { return gather(g, s, true); }

 private:
  template <class F> void over_rows(int gate, F&& f) const {
    int64_t row = 0, unit_row = 0;
    for (int g = gate; g < d.f.gates; ++g, unit_row += d.H, row += d.gate_rows(g - 1))
      for (int64_t j = 0; j < d.H; ++j) f(unit_row + j, row + (d.is_shared(g) ? j / size : j));
  }
  template <class F> void over_columns(F&& f) const {
    for (int64_t j = 0; j < d.H; ++j) f(j, j);
    for (int64_t s = 1; s * d.H < d.fed; ++s)
      for (int64_t j = 0; j < d.blocks(); ++j) f(s * d.H + j * size, d.H + (s - 1) * d.blocks() + j);
  }
  // The same on a card, in torch's words. `of_shared` is applied to the rows of each gate that is shared, and the
  // others stay as they are; `units`: how many rows a gate has in t, where that is the same for all.
  template <class F> Tensor by_gates(const Tensor& t, int gate, F&& of_shared, int64_t units = 0) const {
    std::vector<Tensor> parts;
    for (int64_t g = gate, at = 0; g < d.f.gates; ++g) {
      int64_t n = units ? units : d.gate_rows(static_cast<int>(g));
      Tensor of_gate = t.narrow(0, at, n);
      parts.push_back(d.is_shared(static_cast<int>(g)) ? of_shared(of_gate) : of_gate);
      at += n;
    }
    return at::cat(parts);
  }
  Tensor first_of_each(const Tensor& t) const {  // (..., n) to (..., n * size), zeros in between
    return at::constant_pad_nd(t.unsqueeze(-1), {0, size - 1}).flatten(-2);
  }
  Tensor resized(const Tensor& t, int64_t n) const {
    std::vector<int64_t> sizes = t.sizes().vec();
    sizes.back() = n;
    return at::zeros(sizes, d.options());
  }
  Tensor spread(const Tensor& t, int s, bool to_all) const {
    if (size == 1 || !d.is_gate_state(s)) return t;
    if (on_card(d.x)) return to_all ? t.repeat_interleave(size, -1) : first_of_each(t);
    Tensor to = resized(t, d.H);
    Real* out = to.template mutable_data_ptr<Real>();
    const Real* in = t.const_data_ptr<Real>();
    for (int64_t i = 0; i < t.numel(); ++i)
      for (int64_t j = 0; j < (to_all ? size : 1); ++j) out[i * size + j] = in[i];
    return to;
  }
  Tensor gather(const Tensor& t, int s, bool from_all) const {
    if (size == 1 || !d.is_gate_state(s)) return t;
    if (on_card(d.x)) {
      Tensor blocks = t.unflatten(-1, {-1, size});
      return from_all ? blocks.sum(-1) : blocks.select(-1, 0).contiguous();
    }
    Tensor to = resized(t, d.blocks());
    Real* out = to.template mutable_data_ptr<Real>();
    const Real* in = t.const_data_ptr<Real>();
    for (int64_t i = 0; i < to.numel(); ++i)
      for (int64_t j = 0; j < (from_all ? size : 1); ++j) out[i] += in[i * size + j];
    return to;
  }
  // Rows before those of the one gate that each cell has for itself.
  int64_t free_gate() const {
    int64_t n = 0;
    for (int g = 0; d.is_shared(g); ++g) n += d.gate_rows(g);
    return n;
  }

  const Data& d;
  int64_t size;
};

// ------------------------------------------------------------------------------------------------------------- running

template <class Real> void launch(Pass pass, int cell, const Data& d, const Call<Real>& call) {
  const char* precision = sizeof(Real) == 8 ? "float64" : "float32";
#ifdef RNN_CUDA
  if (on_card(d.x)) {
    auto run = pass == Pass::kForward ? &cuda::forward<Real> : &cuda::backward<Real>;
    return remember({d.op, "cuda", precision, run(cell, d.f, call, d.card_timeline(), d.x.device()), 1});
  }
#endif
  const Isa isa = current_isa();
  const Kernels<Real>& k = kernels<Real>(isa);
  int threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  for (;;) {
    Plan plan = make_plan(pass, d.f, call.time, d.I, d.H, d.P, d.fed, k.tile, sizeof(Real), threads);
    bool forward = pass == Pass::kForward;
    auto bytes = static_cast<int64_t>((forward ? k.forward_space : k.backward_space)(d.f, call, plan));
    Tensor space = fresh({bytes}, at::TensorOptions().dtype(at::kByte));  // torch aligns it to a cache line
    char* base = static_cast<char*>(space.mutable_data_ptr());
    Meeting meeting(plan.grid_rows, plan.grid_cols);
    auto body = [&](int thread) { (forward ? k.forward : k.backward)(cell, d.f, call, plan, base, meeting, thread); };
    if (run_team(plan.threads(), body))
      return remember({d.op, isa_name(isa), precision, describe(plan).text, plan.threads()});
    threads = 1;
  }
}

// One call as the kernels take it, and the tensors its pointers point into.
template <class Real> struct Prepared {
  const Data& d;
  Expansion<Real> expand;
  Tensor weight_mask, w_ih, w_hh, b_ih, b_hh;
  std::vector<Tensor> first, reset;
  Call<Real> call{};

  explicit Prepared(const Data& data) : d(data), expand(data) {
    set_seed();
    w_ih = expand.rows(d.w_ih, d.f.first_input, d.I);
    if (d.w_hh) w_hh = expand.weights(masked_weights());
    if (d.b_ih) b_ih = expand.bias(*d.b_ih);
    if (d.b_hh) b_hh = *d.b_hh;
    for (int s = 0; s < d.f.states; ++s) {
      first.push_back(expand.state(d.first[s], s));
      reset.push_back(d.reset[s] ? expand.state(*d.reset[s], s) : Tensor());
    }
    Call<Real>& c = call;
    c.time = d.timeline();
    c.inputs = d.I;
    c.hidden = d.H;
    c.outputs = d.P;
    c.fed = d.fed;
    c.saved_numbers = d.saved_numbers();
    c.x = d.x.template const_data_ptr<Real>();
    c.x_tick = d.x.stride(0);
    c.x_row = d.x.stride(d.is_flat() ? 0 : 1);
    c.w_ih = read<Real>(w_ih);
    c.w_hh = read<Real>(w_hh);
    if (!weight_mask.defined())  // which scales
      c.w_hh_halves = d.dtype == at::kBFloat16 ? Halves::kBfloat16
                      : d.dtype == at::kHalf   ? Halves::kFloat16
                                               : Halves::kNone;
    c.b_ih = read<Real>(b_ih);
    c.b_hh = read<Real>(b_hh);
    c.w_hr = d.w_hr ? read<Real>(*d.w_hr) : nullptr;
    c.unit = d.unit ? read<Real>(*d.unit) : nullptr;
    c.resets = d.resets.defined() ? d.resets.const_data_ptr<bool>() : nullptr;
    for (int s = 0; s < d.f.states; ++s) {
      c.first[s] = read<Real>(first[s]);
      c.reset[s] = read<Real>(reset[s]);
    }
    for (int kind : {kZoneH, kZoneCell, kDropFed, kDropInput}) c.masks[kind] = mask(kind);
    auto bound = [&](int n) { return d.number[n] > 0 ? Real(d.number[n]) : std::numeric_limits<Real>::infinity(); };
    c.cell_clip = bound(kCellClip);
    c.gradient_clip = bound(kGradientClip);
    c.eps = static_cast<Real>(d.number[kEps]);
    c.truncated = d.choice[kTruncated];
    for (int i = 0; i < 2; ++i) {
      int64_t own = d.f.shared ? (i ? kH1997 : kG1997) : kTanh;
      c.squash[i] = static_cast<int>(d.choice[kSquashG + i] < 0 ? own : d.choice[kSquashG + i]);
    }
  }

  // The call over steps [from, to) of the sweep.
  Call<Real> part(int64_t from, int64_t to) const {
    Call<Real> c = call;
    c.time.begin = d.reverse ? d.T - to : from;
    c.time.end = d.reverse ? d.T - from : to;
    return c;
  }

 private:
  // A seed on the card is read there: nobody waits for it here.
  void set_seed() {
    call.stream = static_cast<uint32_t>(d.choice[kStream]);
    if (!d.seed) return;
    if (on_card(d.x) && d.seed->device() == d.x.device())
      call.seed_at = d.seed->template const_data_ptr<int64_t>();
    else
      call.seed = static_cast<uint64_t>(d.seed->template item<int64_t>());
  }

  Mask<Real> mask(int kind) const {
    Mask<Real> m{};
    m.source = d.template source<Real>(kind);
    m.probability = d.number[kind];
    m.each_tick = kind == kZoneH || kind == kZoneCell || d.choice[kStep];
    if (!d.masks[kind]) return m;
    const Tensor& t = *d.masks[kind];
    m.given = read<Real>(t);
    m.tick = t.dim() == 3 ? t.stride(0) : 0;
    m.row = t.stride(t.dim() - 2);
    return m;
  }

  Tensor masked_weights() {
    auto source = d.template source<Real>(kDropWeight);
    if (source == Mask<Real>::kNone) return *d.w_hh;
    if (source == Mask<Real>::kGiven) {
      weight_mask = *d.masks[kDropWeight];
    } else {
      weight_mask = at::empty_like(*d.w_hh);
      int64_t n = weight_mask.size(1);
      Mask<Real> m = mask(kDropWeight);
      m.each_tick = false;
#ifdef RNN_CUDA
      if (on_card(d.x)) {
        Call<Real> of_mask = call;
        of_mask.masks[kDropWeight] = m;
        cuda::draw(of_mask, kDropWeight, weight_mask.size(0), n, data<Real>(weight_mask));
        return d.w_hh->mul(weight_mask);
      }
#endif
      auto draw = kernels<Real>(current_isa()).draw;
      Real* to = data<Real>(weight_mask);
      at::parallel_for(0, weight_mask.size(0), 1 + 16384 / std::max<int64_t>(n, 1), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
          draw(kDropWeight, m, call.seed, call.stream, 0, row, 0, n, to + row * n);
      });
    }
    return d.w_hh->mul(weight_mask);
  }
};

struct Results {
  Tensor out, saved;
  std::vector<Tensor> final, all;
};

template <class Real> void run_forward(int cell, const Data& d, bool save, Results& r) {
  Prepared<Real> p(d);
  for (int s = 0; s < d.f.states; ++s)
    r.final.push_back(d.live_frames() ? at::empty_like(p.first[s]) : p.first[s].clone());
  if (d.live_frames() == 0) {
    for (int s = 0; s < d.f.states; ++s) r.final[s] = p.expand.pick_state(r.final[s], s);
    return;
  }
  Call<Real>& c = p.call;
  c.out = data<Real>(r.out);
  std::vector<Tensor> all(d.f.states);
  for (int s = 1; s < d.f.states && !r.all.empty(); ++s) {
    all[s] = d.is_expanded() && d.is_gate_state(s) ? d.fresh_frames(d.frames_of(d.H)) : r.all[s];
    c.all[s] = data<Real>(all[s]);
  }
  auto target = [&](Call<Real>& part, int64_t piece) {  // where the states go at the end of a piece
    Real* to = data<Real>(r.saved) + piece * r.saved.size(1);
    for (int s = 0; s < d.f.states; ++s) {
      part.final[s] = to;
      to += d.B * (s ? d.H : d.P);
    }
  };
  if (!save || !d.recomputes()) {
    for (int s = 0; s < d.f.states; ++s) c.final[s] = data<Real>(r.final[s]);
    if (save) c.saved = data<Real>(r.saved);
    launch(Pass::kForward, cell, d, c);
  } else {
    for (int64_t piece = 0, at = 0; at < d.T; ++piece, at += d.piece()) {
      Call<Real> part = p.part(at, std::min(d.T, at + d.piece()));
      target(part, piece);
      if (piece > 0) {
        Call<Real> before{};
        target(before, piece - 1);
        for (int s = 0; s < d.f.states; ++s) part.first[s] = before.final[s];
      }
      launch(Pass::kForward, cell, d, part);
    }
    int64_t from = 0;  // the last piece's end is the sequence's
    for (int s = 0; s < d.f.states; ++s) {
      Tensor end = r.saved.select(0, (d.T - 1) / d.piece()).narrow(0, from, r.final[s].numel());
      r.final[s].copy_(end.view(r.final[s].sizes()));
      from += r.final[s].numel();
    }
  }
  for (int s = 0; s < d.f.states; ++s) r.final[s] = p.expand.pick_state(r.final[s], s);
  for (int s = 1; s < d.f.states && !r.all.empty(); ++s) r.all[s] = p.expand.pick_state(all[s], s);
}

void forward(int cell, Stack& stack) {
  const Facts& f = cell_facts(cell);
  Data d(f, std::string("rnnkernels::") + f.name);
  Arguments a(stack, kTensors + 2 * f.states + kConfig + 2);
  d.read_data(a);
  d.read_config(a);
  bool save = a.flag(), all = a.flag();
  c10::DeviceGuard guard(d.x.device());
  d.check();

  Results r;
  r.out = d.fresh_frames(d.frames_of(d.P));
  r.saved = fresh(d.saved_sizes(save), d.options());
  if (all)
    for (int s = 0; s < f.states; ++s) r.all.push_back(s ? d.fresh_frames(d.frames_of(d.width(s))) : Tensor());
  d.compute == at::kDouble ? run_forward<double>(cell, d, save, r) : run_forward<float>(cell, d, save, r);
  if (save && d.keeps_h()) d.kept_h(r.saved).copy_(r.out.reshape({d.frames, d.P}));
  std::vector<Tensor> results{r.out.to(d.dtype)};
  for (int s = 0; s < f.states; ++s) results.push_back(r.final[s].to(d.state_dtype[s]));
  for (int s = 1; s < f.states; ++s)
    results.push_back(all ? r.all[s].to(d.dtype) : at::empty({0}, d.options().dtype(d.dtype)));
  results.push_back(r.saved);
  a.leave(std::move(results));
}

// What the backward is given besides Data, dense and in the kernels' precision, and what it makes.
struct Gradients {
  Tensor grad_out, out, saved;
  std::vector<Tensor> grad_final, grad_all;
  bool needs_x, needs_w;
  Tensor x, w_ih, w_hh, b_ih, b_hh, w_hr, unit;
  std::vector<Tensor> first, reset;
};

// Piece by piece, the last first: runs it forward once more from its first states, now saving, then backward.
template <class Real> void recompute(int cell, const Data& d, Prepared<Real>& p, Gradients& g) {
  const int states = d.f.states;
  int64_t most = 0;
  for (int64_t at = 0; at < d.T; at += d.piece()) {
    Timeline time = p.part(at, std::min(d.T, at + d.piece())).time;
    most = std::max(most, time.frame(time.end));
  }
  Tensor saved = fresh({most, d.saved_numbers()}, d.options());
  // The caller's h will do, unless it is rounded.
  Tensor out = d.dtype == d.compute ? Tensor() : d.fresh_frames(d.frames_of(d.P));
  std::vector<Tensor> ends, grads[2];
  for (int s = 0; s < states; ++s) {
    ends.push_back(at::empty_like(g.first[s]));
    for (auto& pair : grads) pair.push_back(at::empty_like(g.first[s]));
  }
  for (int64_t piece = d.pieces() - 1, turn = 0; piece >= 0; --piece) {
    int64_t at = piece * d.piece();
    if (at >= d.T) continue;  // flat inputs: there were fewer ticks than frames
    Call<Real> part = p.part(at, std::min(d.T, at + d.piece()));
    if (turn == 0 && part.time.frame(part.time.end) == 0) continue;  // every row ended before
    part.saved = data<Real>(saved);
    const Real* from = read<Real>(g.saved) + (piece - 1) * g.saved.size(1);
    for (int s = 0; s < states && piece > 0; ++s) {
      part.first[s] = from;
      from += d.B * (s ? d.H : d.P);
    }
    Call<Real> again = part;
    again.out = out.defined() ? data<Real>(out) : nullptr;
    for (int s = 0; s < states; ++s) again.final[s] = data<Real>(ends[s]);
    launch(Pass::kForward, cell, d, again);
    if (out.defined()) part.out = again.out;
    for (int s = 0; s < states; ++s) {
      if (turn > 0) part.grad_final[s] = read<Real>(grads[turn & 1][s]);
      if (piece > 0) part.grad_first[s] = data<Real>(grads[(turn + 1) & 1][s]);
    }
    part.accumulate = turn++ > 0;
    launch(Pass::kBackward, cell, d, part);
  }
}

template <class Real> void run_backward(int cell, const Data& d, Gradients& g) {
  const int states = d.f.states;
  Prepared<Real> p(d);
  Call<Real>& c = p.call;
  const bool runs = d.live_frames() > 0;
  auto wanted = [&](bool needed, at::IntArrayRef sizes) {
    return !needed ? Tensor() : runs ? fresh(sizes, d.options()) : at::zeros(sizes, d.options());
  };
  int64_t H = d.H;
  g.x = !g.needs_x ? Tensor() : runs ? d.fresh_frames(d.x.sizes()) : at::zeros(d.x.sizes(), d.options());
  g.w_ih = wanted(g.needs_w, {d.f.input_gates() * H, d.I});
  g.w_hh = wanted(g.needs_w && d.w_hh, {d.f.gates * H, d.fed});
  g.b_ih = wanted(g.needs_w && d.b_ih, {(d.f.gates - d.f.first_bias_ih) * H});
  g.b_hh = wanted(g.needs_w && d.b_hh, {(d.f.gates - d.f.first_bias_hh) * H});
  g.w_hr = wanted(g.needs_w && d.w_hr, {d.P, H});
  g.unit = wanted(g.needs_w && d.unit, {d.f.parameters * H});
  for (int s = 0; s < states; ++s) {
    g.first.push_back(runs ? at::empty_like(p.first[s]) : at::zeros_like(p.first[s]));
    if (!runs && g.grad_final[s].defined()) g.first[s].copy_(p.expand.spread_gradient(g.grad_final[s], s));
    g.reset.push_back(p.reset[s].defined() ? at::zeros_like(p.reset[s]) : Tensor());
  }
  std::vector<Tensor> held;  // what pointers point into
  auto hold = [&](Tensor t) { return held.push_back(t), read<Real>(held.back()); };
  if (runs) {
    c.out = const_cast<Real*>(read<Real>(g.out));
    c.grad_out = read<Real>(g.grad_out);
    for (int s = 0; s < states; ++s) {
      if (g.grad_final[s].defined()) c.grad_final[s] = hold(p.expand.spread_gradient(g.grad_final[s], s));
      if (g.grad_all[s].defined()) c.grad_all[s] = hold(p.expand.spread_gradient(g.grad_all[s], s));
      c.grad_first[s] = data<Real>(g.first[s]);
      c.grad_reset[s] = data<Real>(g.reset[s]);
    }
    c.grad_x = data<Real>(g.x);
    c.grad_w_ih = data<Real>(g.w_ih);
    c.grad_w_hh = data<Real>(g.w_hh);
    c.grad_b_ih = data<Real>(g.b_ih);
    c.grad_b_hh = data<Real>(g.b_hh);
    c.grad_w_hr = data<Real>(g.w_hr);
    c.grad_unit = data<Real>(g.unit);
    c.saved = const_cast<Real*>(read<Real>(g.saved));
    d.recomputes() ? recompute(cell, d, p, g) : launch(Pass::kBackward, cell, d, c);
  }
  if (g.w_hh.defined()) {
    g.w_hh = p.expand.fold_weights(g.w_hh);
    if (p.weight_mask.defined()) g.w_hh.mul_(p.weight_mask);
  }
  if (g.w_ih.defined()) g.w_ih = p.expand.fold_rows(g.w_ih, d.f.first_input, d.I);
  if (g.b_ih.defined()) g.b_ih = p.expand.fold_bias(g.b_ih, d.b_ih->size(0));
  for (int s = 0; s < states; ++s) {
    g.first[s] = p.expand.fold_gradient(g.first[s], s);
    if (g.reset[s].defined()) g.reset[s] = p.expand.fold_gradient(g.reset[s], s);
  }
}

void backward(int cell, Stack& stack) {
  const Facts& f = cell_facts(cell);
  Data d(f, std::string("rnnkernels::") + f.name + "_backward");
  Arguments a(stack, 2 * f.states + kTensors + 2 * f.states + 2 + kConfig + 2);
  Gradients g;
  std::vector<std::optional<Tensor>> given;
  for (int i = 0; i < 2 * f.states; ++i) given.push_back(a.maybe());  // of out, the final states, the sequences
  d.read_data(a);
  g.out = a.tensor();
  g.saved = a.tensor();
  d.read_config(a);
  g.needs_x = a.flag();
  g.needs_w = a.flag();
  c10::DeviceGuard guard(d.x.device());
  d.check();
  d.expect("out", g.out, d.frames_of(d.P));
  auto sizes = d.saved_sizes(true);
  TORCH_CHECK(g.saved.sizes() == at::IntArrayRef(sizes) && g.saved.scalar_type() == d.compute, d.op,
              ": saved: expected what the forward saved, ", d.compute, " of shape ", shape_text(sizes), ", got ",
              g.saved.scalar_type(), " of shape ", shape_text(g.saved.sizes()));
  d.expect_device("saved", g.saved);
  auto take = [&](const std::string& what, const std::optional<Tensor>& t, at::IntArrayRef shape, bool may_be_wide) {
    if (!t) return Tensor();
    d.expect(what.c_str(), *t, shape, may_be_wide);
    return d.dense(*t);
  };
  g.grad_out = take("grad_out", given[0], d.frames_of(d.P), false);
  g.grad_all.resize(f.states);
  for (int s = 0; s < f.states; ++s) {
    std::string name = "grad_" + state_name(f, s);
    g.grad_final.push_back(take(name + "_n", given[1 + s], {d.B, d.width(s)}, true));
    if (s > 0) g.grad_all[s] = take(name + "_all", given[f.states + s], d.frames_of(d.width(s)), false);
  }
  g.saved = g.saved.contiguous();
  g.out = d.keeps_h() ? d.kept_h(g.saved).contiguous() : d.dense(g.out);

  d.compute == at::kDouble ? run_backward<double>(cell, d, g) : run_backward<float>(cell, d, g);
  std::vector<Tensor> grads;
  auto give = [&](const Tensor& t, at::ScalarType dtype) {
    grads.push_back(t.defined() ? t.to(dtype) : at::empty({0}, d.options().dtype(d.dtype)));
  };
  for (const Tensor& t : {g.x, g.w_ih, g.w_hh, g.b_ih, g.b_hh, g.w_hr}) give(t, d.dtype);
  give(g.unit, d.unit_dtype);
  for (int s = 0; s < f.states; ++s) give(g.first[s], d.state_dtype[s]);
  for (const Tensor& t : g.reset) give(t, d.dtype);
  a.leave(std::move(grads));
}

class CellOp : public torch::OperatorKernel {
 public:
  CellOp(void (*run)(int, Stack&), int cell) : run_(run), cell_(cell) {}
  void operator()(const c10::OperatorHandle&, c10::DispatchKeySet, Stack* stack) { run_(cell_, *stack); }

 private:
  void (*run_)(int, Stack&);
  int cell_;
};

// Applies a word of the cells' vocabulary elementwise: how the tests reach the vector code.
Tensor math(const Tensor& x, std::string_view word) {
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble,
              "rnnkernels::_math: x: expected float32 or float64, got ", x.scalar_type());
  Tensor in = x.contiguous(), out = at::empty_like(in);
  auto apply = [&]<class Real>(Real) {
    constexpr int64_t kPiece = int64_t(1) << 30;
    for (int64_t from = 0; from < std::max<int64_t>(in.numel(), 1); from += kPiece)
      TORCH_CHECK(kernels<Real>(current_isa())
                      .map(std::string(word).c_str(), std::min(kPiece, in.numel() - from),
                           in.const_data_ptr<Real>() + from, out.mutable_data_ptr<Real>() + from),
                  "rnnkernels::_math: word: expected exp, log, tanh, sigmoid or softplus, got ", word);
  };
  x.scalar_type() == at::kDouble ? apply(double()) : apply(float());
  return out;
}

// The peak that benches hold rates against: GFLOP/s of independent FMAs in registers on so many threads.
double fma_peak(int64_t threads, bool is_double) {
  TORCH_CHECK(threads >= 1 && threads <= 1024, "rnnkernels::_fma_peak: threads: expected 1 to 1024, got ", threads);
  auto chain = is_double ? kernels<double>(current_isa()).fma_chain : kernels<float>(current_isa()).fma_chain;
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::vector<double> flops(threads);
    auto body = [&](int thread) { flops[thread] = chain(10'000'000); };
    auto start = std::chrono::steady_clock::now();
    TORCH_CHECK(run_team(static_cast<int>(threads), body), "rnnkernels::_fma_peak: threads: ", threads,
                " could not be started");
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    double total = 0;
    for (double f : flops) total += f;
    best = std::max(best, total / seconds.count() * 1e-9);
  }
  return best;
}

}  // namespace

int64_t recompute_piece(int64_t ticks, int64_t batch, int64_t numbers) {
  for (int64_t n : {ticks, batch, numbers})
    TORCH_CHECK(n >= 0, "rnnkernels: recompute_piece: expected sizes of 0 or more, got ", n);
  constexpr double kNumbers = 1 << 20;  // what is kept of a piece: never mind less
  auto root = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(ticks))));
  return std::max<int64_t>(
      {1, root,
       static_cast<int64_t>(kNumbers / std::max(static_cast<double>(batch) * static_cast<double>(numbers), 1.0))});
}

LastKernel last_kernel() {
  std::lock_guard<std::mutex> lock(last_mutex);
  return last;
}

void remember(const LastKernel& kernel) {
  std::lock_guard<std::mutex> lock(last_mutex);
  last = kernel;
}

std::vector<std::string> persistent_cells() {
  std::vector<std::string> names;
#ifdef RNN_CUDA
  for (int cell = 0; cell < cell_count(); ++cell)
    if (cuda::has_persistent(cell)) names.push_back(cell_facts(cell).name);
#endif
  return names;
}

TORCH_LIBRARY(rnnkernels, m) {
  for (int cell = 0; cell < cell_count(); ++cell) {
    m.def(forward_schema(cell_facts(cell)).c_str());
    m.def(backward_schema(cell_facts(cell)).c_str());
  }
  m.def("_math(Tensor x, str word) -> Tensor");
  m.def("_fma_peak(int threads, bool double) -> float", &fma_peak);
}

void register_cells(torch::Library& m) {
  for (int cell = 0; cell < cell_count(); ++cell) {
    std::string name = cell_facts(cell).name;
    m.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<CellOp>(&forward, cell)));
    m.impl((name + "_backward").c_str(),
           torch::CppFunction::makeFromBoxedFunctor(std::make_unique<CellOp>(&backward, cell)));
  }
}

TORCH_LIBRARY_IMPL(rnnkernels, CPU, m) {
  register_cells(m);
  m.impl("_math", &math);
}
#if defined(RNN_CUDA) && !defined(RNN_CUDA_ON_CPU)
TORCH_LIBRARY_IMPL(rnnkernels, CUDA, m) { register_cells(m); }
#endif

}  // namespace rnn
