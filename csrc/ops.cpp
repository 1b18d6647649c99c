// The torch ops: schemas, checks and TORCH_LIBRARY, a loop over the cells. Tensors become plain structs here.
#include "ops.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <sstream>

#include "cpu/isa.h"
#include "cpu/plan.h"

namespace rnn {
namespace {

using at::Tensor;
using torch::jit::Stack;

std::mutex last_mutex;
LastKernel last;

std::string shape_text(at::IntArrayRef sizes) {
  std::ostringstream text;
  text << '(';
  for (size_t i = 0; i < sizes.size(); ++i) text << (i ? ", " : "") << sizes[i];
  text << (sizes.size() == 1 ? ",)" : ")");
  return text.str();
}

// ------------------------------------------------------------------------------------------------------------ schemas

constexpr const char* kStateNames[kMaxStates] = {"h", "c", "s2", "s3"};

std::string per_state(const Facts& f, const char* before, const char* after) {
  std::string text;
  for (int s = 0; s < f.states; ++s) text.append(before).append(kStateNames[s]).append(after);
  return text;
}

std::string data_schema(const Facts& f) {
  return "Tensor x, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr" +
         per_state(f, ", Tensor ", "0");
}

std::string forward_schema(const Facts& f) {
  return std::string(f.name) + "(" + data_schema(f) + ", Tensor? batch_sizes, bool reverse, bool save) -> (Tensor out" +
         per_state(f, ", Tensor ", "_n") + ", Tensor saved)";
}

std::string backward_schema(const Facts& f) {
  return std::string(f.name) + "_backward(Tensor? grad_out" + per_state(f, ", Tensor? grad_", "_n") + ", " +
         data_schema(f) +
         ", Tensor out, Tensor saved, Tensor? batch_sizes, bool reverse, bool needs_x, bool needs_w) -> (Tensor "
         "grad_x, "
         "Tensor grad_w_ih, Tensor grad_w_hh, Tensor grad_b_ih, Tensor grad_b_hh, Tensor grad_w_hr" +
         per_state(f, ", Tensor grad_", "0") + ")";
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
  void leave(std::vector<Tensor> results) {
    stack_.erase(stack_.begin() + begin_, stack_.end());
    for (auto& r : results) stack_.emplace_back(std::move(r));
  }

 private:
  Stack& stack_;
  size_t at_, begin_;
};

// The tensors of one call, checked, dense, and in the precision the kernels run in.
struct Data {
  const Facts& f;
  std::string op;
  at::ScalarType dtype, compute;
  int64_t T, B, I, H, P, frames;
  Tensor x, w_ih, w_hh, batch_sizes;
  std::optional<Tensor> b_ih, b_hh, w_hr;
  std::vector<Tensor> first;
  std::vector<int64_t> rows_at, frame_at;
  bool reverse;

  Data(const Facts& facts, std::string name) : f(facts), op(std::move(name)) {}

  void read_data(Arguments& a) {
    x = a.tensor();
    w_ih = a.tensor();
    w_hh = a.tensor();
    b_ih = a.maybe();
    b_hh = a.maybe();
    w_hr = a.maybe();
    for (int s = 0; s < f.states; ++s) first.push_back(a.tensor());
  }

  // batch_sizes and reverse, which follow everything else but flags of the op's own.
  void read_time(Arguments& a) {
    if (auto sizes = a.maybe()) batch_sizes = *sizes;
    reverse = a.flag();
  }

  void check() {
    bool packed = batch_sizes.defined();
    dtype = x.scalar_type();
    TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf, op,
                ": x: expected float32, float64, bfloat16 or float16, got ", dtype);
    TORCH_CHECK(x.dim() == (packed ? 2 : 3), op, ": x: expected ",
                packed ? "2 dimensions (N, I)" : "3 dimensions (T, B, I)", ", got shape ", shape_text(x.sizes()));
    TORCH_CHECK(w_hh.dim() == 2 && w_hh.size(0) % f.gates == 0, op, ": w_hh: expected shape (", f.gates,
                " * H, P), got ", shape_text(w_hh.sizes()));
    TORCH_CHECK(first[0].dim() == 2, op, ": h0: expected shape (B, P), got ", shape_text(first[0].sizes()));
    I = x.size(-1);
    H = w_hh.size(0) / f.gates;
    P = w_hr ? w_hr->size(0) : H;
    B = packed ? first[0].size(0) : x.size(1);
    TORCH_CHECK(!w_hr || f.projection, op, ": w_hr: this cell has no projection");
    expect("w_ih", w_ih, {f.gates * H, I});
    expect("w_hh", w_hh, {f.gates * H, P});
    if (b_ih) expect("b_ih", *b_ih, {f.gates * H});
    if (b_hh) expect("b_hh", *b_hh, {f.gates * H});
    if (w_hr) expect("w_hr", *w_hr, {P, H});
    for (int s = 0; s < f.states; ++s) expect(s ? "c0" : "h0", first[s], {B, s ? H : P});
    packed ? read_batch_sizes() : (void)(T = x.size(0));
    frames = packed ? x.size(0) : T * B;

    compute = dtype == at::kDouble ? at::kDouble : at::kFloat;
    x = x.to(compute);
    if (I > 1 && x.stride(-1) != 1) x = x.contiguous();
    w_ih = dense(w_ih);
    w_hh = dense(w_hh);
    for (auto* w : {&b_ih, &b_hh, &w_hr})
      if (*w) *w = dense(**w);
    for (auto& s : first) s = dense(s);
  }

  Tensor dense(const Tensor& t) const { return t.to(compute).contiguous(); }

  void expect(const char* what, const Tensor& t, at::IntArrayRef sizes) const {
    TORCH_CHECK(t.sizes() == sizes, op, ": ", what, ": expected shape ", shape_text(sizes), ", got ",
                shape_text(t.sizes()));
    TORCH_CHECK(t.scalar_type() == dtype, op, ": ", what, ": expected dtype ", dtype, " as x has, got ",
                t.scalar_type());
    TORCH_CHECK(t.device() == x.device(), op, ": ", what, ": expected device ", x.device(), " as x has, got ",
                t.device());
  }

  // In half precision the caller's `out` is rounded: h goes on in one row more of what is saved.
  bool keeps_h() const { return dtype != compute; }
  int64_t saved_rows() const { return f.kept_rows(w_hr.has_value()) + keeps_h(); }
  Tensor kept_h(const Tensor& saved) const { return saved.select(1, saved_rows() - 1).narrow(1, 0, P); }
  at::TensorOptions options() const { return at::TensorOptions().dtype(compute).device(at::kCPU); }

  template <class Real> Call<Real> call() const {
    Call<Real> c{};
    bool packed = batch_sizes.defined();
    c.time = {T, B, packed ? rows_at.data() : nullptr, packed ? frame_at.data() : nullptr, reverse};
    c.inputs = I;
    c.hidden = H;
    c.outputs = P;
    c.saved_rows = saved_rows();
    c.x = x.const_data_ptr<Real>();
    c.x_tick = packed ? 0 : x.stride(0);
    c.x_row = x.stride(packed ? 0 : 1);
    c.w_ih = w_ih.const_data_ptr<Real>();
    c.w_hh = w_hh.const_data_ptr<Real>();
    c.b_ih = b_ih ? b_ih->const_data_ptr<Real>() : nullptr;
    c.b_hh = b_hh ? b_hh->const_data_ptr<Real>() : nullptr;
    c.w_hr = w_hr ? w_hr->const_data_ptr<Real>() : nullptr;
    for (int s = 0; s < f.states; ++s) c.first[s] = first[s].const_data_ptr<Real>();
    return c;
  }

 private:
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
};

// ------------------------------------------------------------------------------------------------------------- running

template <class Real> void launch(Pass pass, int cell, const Data& d, const Call<Real>& call) {
  const Isa isa = current_isa();
  const Kernels<Real>& k = kernels<Real>(isa);
  int threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  for (;;) {
    Plan plan = make_plan(pass, d.f, call.time, d.I, d.H, d.P, k.tile, sizeof(Real), threads);
    bool forward = pass == Pass::kForward;
    auto bytes = static_cast<int64_t>((forward ? k.forward_space : k.backward_space)(d.f, call, plan));
    Tensor space = at::empty({bytes}, at::TensorOptions().dtype(at::kByte));  // torch aligns it to a cache line
    char* base = static_cast<char*>(space.mutable_data_ptr());
    Meeting meeting(plan.grid_rows, plan.grid_cols);
    auto body = [&](int thread) { (forward ? k.forward : k.backward)(cell, d.f, call, plan, base, meeting, thread); };
    if (run_parallel(plan.threads(), [](void* f, int thread) { (*static_cast<decltype(body)*>(f))(thread); }, &body)) {
      std::lock_guard<std::mutex> lock(last_mutex);
      last = {d.op, isa_name(isa), sizeof(Real) == 8 ? "float64" : "float32", describe(plan).text, plan.threads()};
      return;
    }
    threads = 1;
  }
}

// `fill` adds what is not in Data: results, and what the backward is given.
void run(Pass pass, int cell, const Data& d, auto&& fill) {
  if (d.compute == at::kDouble) {
    Call<double> call = d.call<double>();
    fill(call);
    launch(pass, cell, d, call);
  } else {
    Call<float> call = d.call<float>();
    fill(call);
    launch(pass, cell, d, call);
  }
}

template <class Real> Real* data(const Tensor& t) { return t.defined() ? t.mutable_data_ptr<Real>() : nullptr; }

void forward(int cell, Stack& stack) {
  const Facts& f = cell_facts(cell);
  Data d(f, std::string("rnnkernels::") + f.name);
  Arguments a(stack, 6 + f.states + 3);
  d.read_data(a);
  d.read_time(a);
  bool save = a.flag();
  d.check();

  Tensor out =
      d.batch_sizes.defined() ? at::empty({d.frames, d.P}, d.options()) : at::empty({d.T, d.B, d.P}, d.options());
  Tensor saved = save ? at::empty({d.frames, d.saved_rows(), d.H}, d.options()) : at::empty({0}, d.options());
  std::vector<Tensor> results{out};
  for (auto& s : d.first) results.push_back(d.frames ? at::empty(s.sizes(), d.options()) : s.clone());
  if (d.frames)
    run(Pass::kForward, cell, d, [&]<class Real>(Call<Real>& c) {
      c.out = data<Real>(out);
      for (int s = 0; s < f.states; ++s) c.final[s] = data<Real>(results[1 + s]);
      if (save) c.saved = data<Real>(saved);
    });
  if (save && d.keeps_h()) d.kept_h(saved).copy_(out.reshape({d.frames, d.P}));
  for (auto& r : results) r = r.to(d.dtype);
  results.push_back(saved);
  a.leave(std::move(results));
}

void backward(int cell, Stack& stack) {
  const Facts& f = cell_facts(cell);
  Data d(f, std::string("rnnkernels::") + f.name + "_backward");
  Arguments a(stack, 1 + f.states + 6 + f.states + 6);
  auto grad_out = a.maybe();
  std::vector<std::optional<Tensor>> grad_final;
  for (int s = 0; s < f.states; ++s) grad_final.push_back(a.maybe());
  d.read_data(a);
  Tensor out = a.tensor(), saved = a.tensor();
  d.read_time(a);
  bool needs_x = a.flag(), needs_w = a.flag();
  d.check();
  if (d.batch_sizes.defined())
    d.expect("out", out, {d.frames, d.P});
  else
    d.expect("out", out, {d.T, d.B, d.P});
  TORCH_CHECK(saved.sizes() == at::IntArrayRef({d.frames, d.saved_rows(), d.H}) && saved.scalar_type() == d.compute,
              d.op, ": saved: expected what the forward saved, ", d.compute, " of shape ",
              shape_text({d.frames, d.saved_rows(), d.H}), ", got ", saved.scalar_type(), " of shape ",
              shape_text(saved.sizes()));
  if (grad_out) {
    d.expect("grad_out", *grad_out, out.sizes());
    *grad_out = d.dense(*grad_out);
  }
  for (int s = 0; s < f.states; ++s)
    if (grad_final[s]) {
      d.expect(s ? "grad_c_n" : "grad_h_n", *grad_final[s], d.first[s].sizes());
      *grad_final[s] = d.dense(*grad_final[s]);
    }
  saved = saved.contiguous();
  out = d.keeps_h() ? d.kept_h(saved).contiguous() : out.contiguous();

  auto fresh = [&](bool needed, at::IntArrayRef sizes) {
    if (!needed) return Tensor();
    return d.frames ? at::empty(sizes, d.options()) : at::zeros(sizes, d.options());
  };
  int64_t GH = f.gates * d.H;
  // grad_x as x lies in memory, but dense: (T,B,I) or (N,I).
  std::vector<Tensor> grads{fresh(needs_x, d.x.sizes()),    fresh(needs_w, {GH, d.I}),
                            fresh(needs_w, {GH, d.P}),      fresh(needs_w && d.b_ih, {GH}),
                            fresh(needs_w && d.b_hh, {GH}), fresh(needs_w && d.w_hr, {d.P, d.H})};
  for (int s = 0; s < f.states; ++s) {
    Tensor g = fresh(true, d.first[s].sizes());
    if (!d.frames && grad_final[s]) g.copy_(*grad_final[s]);
    grads.push_back(g);
  }
  if (d.frames)
    run(Pass::kBackward, cell, d, [&]<class Real>(Call<Real>& c) {
      c.out = const_cast<Real*>(out.const_data_ptr<Real>());
      c.saved = const_cast<Real*>(saved.const_data_ptr<Real>());
      c.grad_out = grad_out ? grad_out->const_data_ptr<Real>() : nullptr;
      for (int s = 0; s < f.states; ++s) {
        c.grad_final[s] = grad_final[s] ? grad_final[s]->template const_data_ptr<Real>() : nullptr;
        c.grad_first[s] = data<Real>(grads[6 + s]);
      }
      Real** to[] = {&c.grad_x, &c.grad_w_ih, &c.grad_w_hh, &c.grad_b_ih, &c.grad_b_hh, &c.grad_w_hr};
      for (int i = 0; i < 6; ++i) *to[i] = data<Real>(grads[i]);
    });
  for (auto& g : grads) g = g.defined() ? g.to(d.dtype) : at::empty({0}, d.options().dtype(d.dtype));
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
                  "rnnkernels::_math: word: expected exp, tanh or sigmoid, got ", word);
  };
  x.scalar_type() == at::kDouble ? apply(double()) : apply(float());
  return out;
}

// The peak that benches hold rates against: GFLOP/s of independent FMAs in registers on so many threads.
double fma_peak(int64_t threads, bool is_double) {
  auto chain = is_double ? kernels<double>(current_isa()).fma_chain : kernels<float>(current_isa()).fma_chain;
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::vector<double> flops(threads);
    auto body = [&](int thread) { flops[thread] = chain(10'000'000); };
    auto start = std::chrono::steady_clock::now();
    TORCH_CHECK(
        run_parallel(
            static_cast<int>(threads), [](void* f, int thread) { (*static_cast<decltype(body)*>(f))(thread); }, &body),
        "rnnkernels::_fma_peak: threads: ", threads, " could not be started");
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    double total = 0;
    for (double f : flops) total += f;
    best = std::max(best, total / seconds.count() * 1e-9);
  }
  return best;
}

}  // namespace

LastKernel last_kernel() {
  std::lock_guard<std::mutex> lock(last_mutex);
  return last;
}

TORCH_LIBRARY(rnnkernels, m) {
  for (int cell = 0; cell < cell_count(); ++cell) {
    m.def(forward_schema(cell_facts(cell)).c_str());
    m.def(backward_schema(cell_facts(cell)).c_str());
  }
  m.def("_math(Tensor x, str word) -> Tensor");
  m.def("_fma_peak(int threads, bool double) -> float", &fma_peak);
}

TORCH_LIBRARY_IMPL(rnnkernels, CPU, m) {
  for (int cell = 0; cell < cell_count(); ++cell) {
    std::string name = cell_facts(cell).name;
    m.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<CellOp>(&forward, cell)));
    m.impl((name + "_backward").c_str(),
           torch::CppFunction::makeFromBoxedFunctor(std::make_unique<CellOp>(&backward, cell)));
  }
  m.impl("_math", &math);
}

}  // namespace rnn
