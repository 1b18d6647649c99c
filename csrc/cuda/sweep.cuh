// The table of a precision's kernels; sweep_<precision>.cu includes this and instantiates it.
#pragma once
#include "step.cuh"

namespace rnn::cuda {

inline constexpr int kArguments = 4096;  // bytes that a kernel of any card takes
static_assert(sizeof(Step<double>) < kArguments - 64);

template <class Real, class Kernel, class... Arguments>
void launch(Kernel* kernel, const Grid& grid, Stream stream, const Step<Real>& m, Arguments... arguments) {
  if (!grid.empty())
    kernel<<<grid.blocks(), grid.block, 0, static_cast<cudaStream_t>(stream)>>>(m, arguments..., grid.across);
}

template <class Cell, class Real, int S>
void launch_forward(const Step<Real>& m, int64_t t, int64_t next, int64_t rows, Stream stream) {
  launch(&forward_run<Cell, Real, S>, Grid(rows, m.c.hidden, kWholeRows<Cell>), stream, m, t, next, rows);
}
template <class Cell, class Real, int S>
void launch_backward(const Step<Real>& m, int64_t t, int64_t rows, int64_t product_rows, Stream stream) {
  launch(&backward_run<Cell, Real, S>, Grid(rows, m.c.hidden, kWholeRows<Cell>), stream, m, t, rows, product_rows);
}

template <class Cell, class Real, int S = 0> constexpr void set_runs(CellKernels<Real>& kernels) {
  constexpr Facts f = facts_of<Cell>();
  constexpr int kEnd = run_end<Cell, S>();
  kernels.forward[S] = &launch_forward<Cell, Real, S>;
  kernels.backward[kEnd - 1] = &launch_backward<Cell, Real, kEnd - 1>;
  if constexpr (kEnd < f.stages) set_runs<Cell, Real, kEnd>(kernels);
}
template <class Cell, class Real> constexpr CellKernels<Real> runs_of() {
  CellKernels<Real> kernels{};
  set_runs<Cell, Real>(kernels);
  return kernels;
}

template <class Real> const CellKernels<Real>& cell_kernels(int cell) {
#define RNN_RUNS(Cell) runs_of<Cell, Real>(),
  static constexpr CellKernels<Real> kCells[] = {RNN_CELLS(RNN_RUNS)};
#undef RNN_RUNS
  return kCells[cell];
}

template <class Real> Grid batch_grid(const Step<Real>& m) { return Grid(m.c.time.batch, m.units(), false); }

template <class Real> const Kernels<Real>& kernels() {
  using M = const Step<Real>&;
  static constexpr Kernels<Real> kTable = {
      .cell = &cell_kernels<Real>,
      .enter = [](M m, Stream s) { launch(&enter<Real>, batch_grid(m), s, m); },
      .deliver = [](M m, int64_t t, int64_t next, int64_t rows,
                    Stream s) { launch(&deliver<Real>, Grid(rows, m.units(), false), s, m, t, next, rows); },
      .leave = [](M m, Stream s) { launch(&leave<Real>, batch_grid(m), s, m); },
      .normalise_inputs =
          [](M m, int64_t frames, Stream s) {
            launch(&normalise_inputs<Real>, Grid(frames, m.f.gates * m.c.hidden, true), s, m);
          },
      .enter_backward = [](M m, Stream s) { launch(&enter_backward<Real>, batch_grid(m), s, m); },
      .arrive = [](M m, int64_t t, int64_t rows, int64_t product_rows,
                   Stream s) { launch(&arrive<Real>, Grid(rows, m.c.outputs, false), s, m, t, rows, product_rows); },
      .finish = [](M m, bool has_product, Stream s) { launch(&finish<Real>, batch_grid(m), s, m, has_product); },
      .reduce = [](M m, Stream s) { launch(&reduce<Real>, Grid(m.f.parameters + m.f.states, m.units(), false), s, m); },
      .unnormalise_inputs =
          [](M m, int64_t frames, Stream s) {
            launch(&unnormalise_inputs<Real>, Grid(frames, m.f.gates * m.c.hidden, true), s, m);
          },
      .gather_inputs =
          [](M m, int64_t frames, Real* to, Stream s) {
            launch(&gather_inputs<Real>, Grid(frames, m.c.inputs, false), s, m, frames, to);
          },
      .gather_fed = [](M m, int64_t frames, Real* to,
                       Stream s) { launch(&gather_fed<Real>, Grid(frames, m.c.fed, false), s, m, frames, to); },
      .scatter_inputs =
          [](M m, int64_t frames, const Real* from, Stream s) {
            launch(&scatter_inputs<Real>, Grid(frames, m.c.inputs, false), s, m, frames, from);
          },
      .draw = [](M m, MaskKind kind, int64_t rows, int64_t n, Real* to,
                 Stream s) { launch(&draw<Real>, Grid(rows, n, false), s, m, kind, rows, n, to); }};
  return kTable;
}

}  // namespace rnn::cuda
