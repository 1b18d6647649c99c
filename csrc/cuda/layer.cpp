// Walks a layer through time on a card: matrix products by ATen, and between two of them a run of stages. Nothing here
// waits for the card.
#include "layer.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <climits>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "persistent.h"

namespace rnn::cuda {
namespace {

using at::Tensor;

Stream current_stream() { return static_cast<cudaStream_t>(at::cuda::getCurrentCUDAStream()); }

// Which way a call walks: RNNKERNELS_CUDA_ALGO, for tests and comparisons.
enum class Algo { kAuto, kTick, kPersistent };
Algo wanted_algo() {
  const char* value = std::getenv("RNNKERNELS_CUDA_ALGO");
  const std::string_view name = value ? value : "";
  if (name == "tick") return Algo::kTick;
  if (name == "persistent") return Algo::kPersistent;
  TORCH_CHECK(name.empty() || name == "auto", "RNNKERNELS_CUDA_ALGO: expected auto, tick or persistent, got ", name);
  return Algo::kAuto;
}

// Walks in one launch that a call may take, the best first.
template <class Real, bool forward>
std::vector<const Persistent<Real>*> persistents(int cell, [[maybe_unused]] const Call<Real>& c) {
  std::vector<const Persistent<Real>*> all{persistent<Real, forward>(cell)};
  if constexpr (std::is_same_v<Real, float>)
    if (c.w_hh_halves != Halves::kNone)
      all.insert(all.begin(), c.w_hh_halves == Halves::kBfloat16 ? persistent<Bfloat16, forward>(cell)
                                                                 : persistent<Float16, forward>(cell));
  std::erase(all, nullptr);
  return all;
}

template <class Real> class Walk {
 public:
  std::string path() const {
    if (!one_launch) return "tick by tick";
    return "persistent, " + std::to_string(layout.blocks) + " blocks" +
           (one_launch->panel.capability ? ", tensor cores" : "");
  }

 private:
  // Products are made in the precision of the kernels, whatever autocast would choose.
  c10::impl::ExcludeDispatchKeyGuard no_autocast_{c10::autocast_dispatch_keyset};

 protected:
  Walk(int cell, const Facts& facts, const Call<Real>& call, const Timeline& card, c10::Device device)
      : f(facts),
        c(call),
        table(kernels<Real>()),
        cell_(table.cell(cell)),
        options(at::TensorOptions().dtype(c10::CppTypeToScalarType<Real>::value).device(device)),
        stream(current_stream()),
        frames(call.time.frame(call.time.end)),
        B(call.time.batch),
        H(call.hidden),
        P(call.outputs) {
    m.f = f;
    m.c = c;
    m.c.time = card;
    m.c.time.begin = c.time.begin;
    m.c.time.end = c.time.end;
    m.fed_states = fed_states(c);
    if (f.has_product(0) && m.fed_states > 0) fed_gates = f.gates_of(0);
    product_ = room(B * std::max(f.gates * H, m.units() * std::max(m.fed_states, 1)));
    m.product = data(product_);
    m.moments = take(B * f.groups * 3);
  }
  Walk(const Walk&) = delete;

  Tensor room(int64_t n) const { return at::empty({n}, options); }
  static Real* data(const Tensor& t) { return t.numel() ? t.mutable_data_ptr<Real>() : nullptr; }
  Real* take(int64_t n) { return held.push_back(room(n)), data(held.back()); }
  Real* take_zeros(int64_t n) { return held.push_back(at::zeros({n}, options)), data(held.back()); }

  // Whether one launch walks all ticks, and how it is laid over the card's blocks then. Between ticks stands a product
  // of so many terms, by so many columns of a unit.
  void choose_algo(const std::vector<const Persistent<Real>*>& kernels, int columns, int64_t terms) {
    const Algo algo = wanted_algo();
    if (algo == Algo::kTick || c.time.steps() == 0 || B == 0 || H == 0) return;
    if (algo == Algo::kAuto && c.time.steps() < 4) return;
    const char* why = try_persistent(kernels, {B, H, terms, columns}, algo == Algo::kAuto);
    TORCH_CHECK(!why || algo == Algo::kAuto, "RNNKERNELS_CUDA_ALGO: persistent is not possible for this ", f.name, ": ",
                why);
  }
  // Null, or why not. if_faster: only where the estimate of a tick is lower than that of the other path.
  const char* try_persistent(const std::vector<const Persistent<Real>*>& kernels, const Shape& shape, bool if_faster) {
    if (kernels.empty() || c.w_hr) return "it is for cells of one stage, without projection or normalisation";
    const cudaDeviceProp& p = *at::cuda::getCurrentDeviceProperties();
    if (!p.cooperativeLaunch) return "the card knows no cooperative launches";
    if (c.time.steps() > INT_MAX - 2) return "there are too many ticks";
    for (auto* one : kernels) {
      if (10 * p.major + p.minor < one->panel.capability) continue;
      const Card card{p.multiProcessorCount, static_cast<int64_t>(p.sharedMemPerBlockOptin)};
      layout = lay_out(shape, one->panel, card);
      if (!layout.blocks || !one->fits(layout)) continue;
      if (if_faster && layout.cycles > tick_cycles(shape, card, sizeof(Real) == 8 ? 64 : 128)) continue;
      one_launch = one;
      return nullptr;
    }
    return "the weights and a row do not fit the blocks";
  }

  // A matrix of rows by columns at p, rows so far apart. Its device is named, or the driver would be asked for it.
  Tensor matrix(const Real* p, int64_t rows, int64_t columns, int64_t apart) const {
    return at::for_blob(const_cast<Real*>(p), {rows, columns})
        .strides({apart, 1})
        .options(options)
        .target_device(options.device())
        .make_tensor();
  }
  Tensor matrix(const Real* p, int64_t rows, int64_t columns) const { return matrix(p, rows, columns, columns); }
  // The rows of a weight that the product before a stage reads.
  Tensor weight_of(int stage) const {
    const int64_t columns = stage ? H : c.fed;
    return matrix(c.w_hh + f.first_gate(stage) * H * c.fed, f.gates_of(stage) * H, columns, c.fed);
  }
  bool has_product(int stage) const { return stage ? f.has_product(stage) : fed_gates > 0; }
  // Stages between two products, and the weights of the product before them, if there is one.
  struct Run {
    int first, last;
    Tensor weight;
  };
  std::vector<Run> runs() const {
    std::vector<Run> all;
    for (int first = 0, last; first < f.stages; first = last + 1) {
      for (last = first; last + 1 < f.stages && !f.has_product(last + 1);) ++last;
      all.push_back({first, last, has_product(first) ? weight_of(first) : Tensor()});
    }
    return all;
  }

  Tensor product(int64_t rows, int64_t columns) const {
    return product_.narrow(0, 0, rows * columns).view({rows, columns});
  }

  // Frames of the inputs as products read them. Where they lie one after the other they are read there.
  Tensor inputs() {
    const Timeline& time = c.time;
    const bool aligned = reinterpret_cast<uintptr_t>(c.x) % 16 == 0;  // or products would differ by where x lies
    const bool by_tick = time.tick_place || time.steps() == 1 || c.x_tick == B * c.x_row;
    if (!time.row_place && c.x_row == c.inputs && by_tick && aligned && !c.masks[kDropInput].on())
      return matrix(c.x_at(time.begin, 0), frames, c.inputs);
    Tensor to = at::empty({frames, c.inputs}, options);
    table.gather_inputs(m, frames, data(to), stream);
    return to;
  }

  const Facts& f;
  const Call<Real>& c;
  const Kernels<Real>& table;
  const CellKernels<Real>& cell_;
  const at::TensorOptions options;
  const Stream stream;
  const int64_t frames, B, H, P;
  int fed_gates = 0;  // gates of the product over the states that feed back
  const Persistent<Real>* one_launch = nullptr;
  Layout layout{};
  Step<Real> m{};
  Tensor product_;
  std::vector<Tensor> held;
};

template <class Real> struct Forward : Walk<Real> {
  using Base = Walk<Real>;
  using Base::B, Base::H, Base::P, Base::c, Base::f, Base::m, Base::one_launch, Base::stream, Base::table;

  Forward(int cell, const Facts& facts, const Call<Real>& call, const Timeline& card, c10::Device device)
      : Base(cell, facts, call, card, device) {
    this->choose_algo(persistents<Real, true>(cell, c), std::max(this->fed_gates, 1), this->fed_gates ? c.fed : 0);
    m.h = this->take(B * m.ld_h());
    m.ld_masked = m.ld_h();
    if (this->fed_gates > 0 && one_launch) {  // twice: one is read while the other is written
      m.ld_masked = (c.fed + kLoad<Real> - 1) / kLoad<Real> * kLoad<Real>;
      m.masked = this->take(2 * B * m.ld_masked);
    } else if (this->fed_gates > 0 && c.masks[kDropFed].on()) {
      m.masked = this->take(B * m.ld_h());
    }
    for (int s = 1; s < f.states; ++s)
      if (!m.in_h(s)) m.state[s] = this->take(B * H);
    if (f.stages > 1 || c.w_hr) m.operand = this->take(B * H);
    m.norm = this->take(B * f.norms * H);
    if (!c.saved && f.stages > 1) m.saved = this->take(B * f.saved * H);
  }

  void run() {
    Tensor projected = at::mm(this->inputs(), this->matrix(c.w_ih, f.input_gates() * H, c.inputs).t());
    m.projected = this->data(projected);
    if (f.norm_input) table.normalise_inputs(m, this->frames, stream);
    table.enter(m, stream);
    one_launch ? one_launch->run(m, this->layout, stream) : walk();
    table.leave(m, stream);
  }

 private:
  void walk() {
    const Timeline& time = c.time;
    auto runs = this->runs();
    for (auto& run : runs)
      if (run.weight.defined()) run.weight = run.weight.t();
    Tensor fed = this->matrix(m.masked ? m.masked : m.h, B, c.fed, m.ld_h()), h = this->matrix(m.h, B, P, m.ld_h()),
           operand;
    if (m.operand) operand = this->matrix(m.operand, B, H);
    Tensor to_outputs = c.w_hr ? this->matrix(c.w_hr, P, H).t() : Tensor();

    for (int64_t step = 0; step < time.steps(); ++step) {
      const int64_t t = time.tick(step), next = step + 1 < time.steps() ? time.tick(step + 1) : -1;
      const int64_t rows = time.rows(t), all = std::max(rows, next < 0 ? 0 : time.rows(next));
      for (const auto& [first, last, weight] : runs) {
        if (weight.defined() && rows > 0) {
          Tensor to = this->product(rows, weight.size(1));
          at::mm_out(to, (first ? operand : fed).narrow(0, 0, rows), weight);
        }
        this->cell_.forward[first](m, t, next, last + 1 == f.stages && !c.w_hr ? all : rows, stream);
      }
      if (!c.w_hr) continue;
      Tensor to = h.narrow(0, 0, rows);
      if (rows > 0) at::mm_out(to, operand.narrow(0, 0, rows), to_outputs);
      table.deliver(m, t, next, all, stream);
    }
  }
};

template <class Real> struct Backward : Walk<Real> {
  using Base = Walk<Real>;
  using Base::B, Base::H, Base::P, Base::c, Base::f, Base::frames, Base::m, Base::one_launch, Base::options,
      Base::stream, Base::table;

  Backward(int cell, const Facts& facts, const Call<Real>& call, const Timeline& card, c10::Device device)
      : Base(cell, facts, call, card, device) {
    this->choose_algo(persistents<Real, false>(cell, c), std::max(m.fed_states, 1), this->fed_gates * H);
    for (int s = 0; s < f.states; ++s) m.carry[s] = this->take(B * c.units(s));
    if (f.stages > 1) m.dnext = this->take(B * H);
    if (c.w_hr) m.dh = this->take(frames * P);
    m.dx = this->take(frames * f.gates * H);
    m.du = f.split ? this->take(frames * f.gates * H) : m.dx;
    m.dnorm = this->take(B * f.norms * H);
    if (c.grad_unit) m.sums = this->take_zeros(B * f.parameters * 2 * m.units());
    if (c.resets) {
      m.reset_sums = this->take_zeros(B * f.states * 2 * m.units());
      m.zeros = this->take_zeros(m.units());
    }
  }

  void run() {
    if (H == 0) return c.grad_x ? grad_inputs() : void();
    const bool flows = this->fed_gates > 0 && !c.truncated;  // through the product with the states that feed back
    table.enter_backward(m, stream);
    Tensor first;
    if (one_launch) {
      one_launch->run(m, this->layout, stream);
    } else {
      first = at::empty({flows ? B : 0, c.fed}, options);
      walk(flows, first);
      m.product = this->data(first);
    }
    table.finish(m, flows, stream);
    if (m.sums || c.resets) table.reduce(m, stream);
    if (f.norm_input) table.unnormalise_inputs(m, frames, stream);
    if (c.grad_x) grad_inputs();
    if (c.wants_weights()) grad_weights();
  }

 private:
  // Leaves in `first` the product of the tick at which the forward entered each row.
  void walk(bool flows, const Tensor& first) {
    const Timeline& time = c.time;
    const auto runs = this->runs();
    const Tensor& to_fed = runs[0].weight;
    const Tensor to_hidden = c.w_hr ? this->matrix(c.w_hr, P, H) : Tensor();
    for (int64_t step = time.steps() - 1; step >= 0; --step) {
      const int64_t t = time.tick(step), rows = time.rows(t), frame = time.frame(t);
      int64_t fed_rows = 0;
      if (flows && step + 1 < time.steps()) fed_rows = time.rows_after(t);
      if (fed_rows > 0) multiply(fed_rows, du_of(0, time.frame(time.after(t)), fed_rows), to_fed);
      if (c.w_hr) {
        table.arrive(m, t, rows, fed_rows, stream);
        if (rows > 0) multiply(rows, this->matrix(m.dh + frame * P, rows, P), to_hidden);
        fed_rows = rows;
      }
      for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
        const int64_t product_rows = run == runs.rbegin() ? fed_rows : c.truncated ? 0 : rows;
        this->cell_.backward[run->last](m, t, rows, product_rows, stream);
        if (run->first > 0 && !c.truncated && rows > 0) multiply(rows, du_of(run->first, frame, rows), run->weight);
      }
      // Rows that the forward entered at this tick.
      const int64_t old = step > 0 ? time.rows_before(t) : 0;
      if (flows && rows > old) {
        Tensor to = first.narrow(0, old, rows - old);
        at::mm_out(to, du_of(0, frame + old, rows - old), to_fed);
      }
    }
  }

  // Gradients of a stage's recurrent parts, of so many frames.
  Tensor du_of(int stage, int64_t frame, int64_t rows) const {
    const int64_t ld = f.gates * H;
    return this->matrix(m.du + frame * ld + f.first_gate(stage) * H, rows, f.gates_of(stage) * H, ld);
  }
  void multiply(int64_t rows, const Tensor& left, const Tensor& right) {
    Tensor to = this->product(rows, right.size(1));
    at::mm_out(to, left, right);
  }
  Tensor dx() const {  // of gates with inputs
    return this->matrix(m.dx + f.first_input * H, frames, f.input_gates() * H, f.gates * H);
  }

  void grad_inputs() {
    Tensor w_ih = this->matrix(c.w_ih, f.input_gates() * H, c.inputs);
    if (!c.time.row_place && !c.masks[kDropInput].on()) {
      Tensor to = this->matrix(c.grad_x + c.time.place(c.time.begin, 0) * c.inputs, frames, c.inputs);
      at::mm_out(to, dx(), w_ih);
    } else {
      Tensor of_frames = at::mm(dx(), w_ih);
      table.scatter_inputs(m, frames, this->data(of_frames), stream);
    }
  }

  void add_product(Real* to, int64_t rows, int64_t columns, int64_t apart, const Tensor& left, const Tensor& right) {
    if (!to) return;
    Tensor sum = this->matrix(to, rows, columns, apart);
    at::addmm_out(sum, sum, left.t(), right, c.accumulate ? 1 : 0);
  }
  void add_sum(Real* to, const Real* from, int first_gate) {
    if (!to || first_gate >= f.gates) return;
    const int64_t n = (f.gates - first_gate) * H;
    Tensor sum = at::for_blob(to, {n}).options(options).target_device(options.device()).make_tensor(),
           total = this->matrix(from + first_gate * H, frames, n, f.gates * H).sum(0);
    c.accumulate ? sum.add_(total) : sum.copy_(total);
  }

  void grad_weights() {
    add_product(c.grad_w_ih, f.input_gates() * H, c.inputs, c.inputs, dx(), this->inputs());
    add_sum(c.grad_b_ih, m.dx, f.first_bias_ih);
    add_sum(c.grad_b_hh, m.du, f.first_bias_hh);
    const Kept kept = c.kept(f);
    auto kept_row = [&](int row) { return this->matrix(c.saved + row * H, frames, H, c.saved_numbers); };
    if (this->fed_gates > 0 && c.grad_w_hh) {
      Tensor fed = at::empty({frames, c.fed}, options);
      table.gather_fed(m, frames, this->data(fed), stream);
      add_product(c.grad_w_hh, this->fed_gates * H, c.fed, c.fed, du_of(0, 0, frames), fed);
    }
    for (int s = 1; s < f.stages && c.grad_w_hh; ++s)
      if (f.has_product(s))
        add_product(c.grad_w_hh + f.first_gate(s) * H * c.fed, f.gates_of(s) * H, H, c.fed, du_of(s, 0, frames),
                    kept_row(kept.operand(f, s)));
    if (c.w_hr) add_product(c.grad_w_hr, P, H, H, this->matrix(m.dh, frames, P), kept_row(kept.projected));
  }
};

}  // namespace

template <class Real>
std::string forward(int cell, const Facts& f, const Call<Real>& call, const Timeline& card, c10::Device device) {
  if (call.hidden == 0) return "no units";
  Forward<Real> walk(cell, f, call, card, device);
  walk.run();
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return walk.path();
}
template <class Real>
std::string backward(int cell, const Facts& f, const Call<Real>& call, const Timeline& card, c10::Device device) {
  Backward<Real> walk(cell, f, call, card, device);
  walk.run();
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return walk.path();
}
bool has_persistent(int cell) { return persistent<float, true>(cell); }
template <class Real> void draw(const Call<Real>& call, MaskKind kind, int64_t rows, int64_t n, Real* to) {
  Step<Real> m{};
  m.c = call;
  kernels<Real>().draw(m, kind, rows, n, to, current_stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

#define RNN_INSTANTIATE(Real)                                                                        \
  template std::string forward(int, const Facts&, const Call<Real>&, const Timeline&, c10::Device);  \
  template std::string backward(int, const Facts&, const Call<Real>&, const Timeline&, c10::Device); \
  template void draw(const Call<Real>&, MaskKind, int64_t, int64_t, Real*);
RNN_INSTANTIATE(float)
RNN_INSTANTIATE(double)

}  // namespace rnn::cuda
