#include "plan.h"

#include <algorithm>
#include <cstdio>

namespace rnn {
namespace {

// Estimates for a server core, in cycles; only ratios matter. What they choose was looked at on a two-core Zen 4 alone.
constexpr double kL1Bytes = 24e3, kL2Bytes = 640e3;
constexpr double kL1Rate = 64, kL2Rate = 24, kL3Rate = 10;  // bytes a cycle and core
constexpr double kBarrier = 1200, kFork = 8000, kLineFromOther = 30, kCellVector = 120;

double ceil_div(double a, double b) { return a <= 0 ? 0 : static_cast<double>(static_cast<int64_t>((a + b - 1) / b)); }

struct TickModel {
  const Timeline& time;
  int64_t columns;  // of one gate
  int64_t depth;    // sum over gates of the product's length
  int cells;        // vectors of transcendental work per vector of units
  TileShape tile;
  size_t real;

  // Of all ticks. Rows are sorted by length, so that the first slice of them has the longest.
  double cycles(int rows, int cols) const {
    if (!time.rows_at) return static_cast<double>(time.steps()) * tick(ceil_div(time.batch, rows), cols);
    double slice = ceil_div(time.batch, rows), sum = 0;
    for (int64_t t = time.begin; t < time.end; ++t) sum += tick(std::min<double>(slice, time.rows_at[t]), cols);
    return sum;
  }

  double tick(double my_rows, int cols) const {
    double my_cols = ceil_div(ceil_div(columns, tile.cols()), cols) * tile.cols();
    my_cols = std::min(my_cols, ceil_div(columns, tile.lanes) * tile.lanes);
    double groups = ceil_div(my_rows, tile.rows);
    double panel_bytes = my_cols * depth * real;
    double rate = panel_bytes < kL1Bytes ? kL1Rate : panel_bytes < kL2Bytes ? kL2Rate : kL3Rate;
    double fma = my_rows * my_cols / tile.lanes * depth;
    double load = groups * my_cols * depth / tile.lanes / 2 + panel_bytes / rate;
    double cell = my_rows * my_cols / tile.lanes * kCellVector * cells / 4;
    double meet = cols == 1 ? 0 : kBarrier + my_rows * columns * real / 64.0 * kLineFromOther * (cols - 1) / cols;
    return std::max(fma, load) + 0.25 * std::min(fma, load) + cell + meet;
  }
};

}  // namespace

Plan make_plan(Pass pass, const Facts& facts, const Timeline& time, int64_t inputs, int64_t hidden, int64_t outputs,
               int64_t fed, TileShape tile, size_t real, int max_threads) {
  const bool forward = pass == Pass::kForward;
  const double frames = static_cast<double>(time.frame(time.end));
  TickModel model{time,
                  forward ? hidden : outputs,
                  facts.gates * (forward ? fed : fed / std::max<int64_t>(outputs, 1) * hidden),
                  facts.gates + 1,
                  tile,
                  real};
  // The products outside the sweep share out evenly whatever the grid.
  const double outside = frames / tile.lanes * hidden *
                         (facts.input_gates() * inputs * (forward ? 1 : 2) + (forward ? 0 : facts.gates * fed));

  Plan plan{1, 1, true, 1};
  double best = 0;
  for (int rows = 1; rows <= std::min<int64_t>(max_threads, std::max<int64_t>(time.batch, 1)); ++rows)
    for (int cols = 1; rows * cols <= max_threads; ++cols) {
      int threads = rows * cols;
      double cost = model.cycles(rows, cols) + outside / threads + (threads > 1 ? kFork : 0);
      if (best == 0 || cost < 0.97 * best) {
        best = cost;
        plan.grid_rows = rows;
        plan.grid_cols = cols;
      }
    }

  // Packing reads and writes every weight once: an estimate of how many uses repay that.
  const double uses = time.steps() * ceil_div(ceil_div(static_cast<double>(time.batch), plan.grid_rows), tile.rows);
  plan.packed = uses >= 4;

  // All threads' inputs and what they are projected to stay within 4 MiB, a block's gradients within 8; never less than
  // one tick.
  const double row = static_cast<double>(
      (facts.gates * hidden + (forward ? inputs * plan.grid_cols : facts.split_gates() * hidden)) * real);
  const double tick = row * std::max<int64_t>(time.batch, 1);
  plan.block_ticks = std::clamp<int64_t>(static_cast<int64_t>((forward ? 4 : 8) * 1048576.0 / std::max(tick, 1.0)), 1,
                                         std::max<int64_t>(time.steps(), 1));
  return plan;
}

PlanText describe(const Plan& plan) {
  PlanText p;
  std::snprintf(p.text, sizeof p.text, "rows %d x hidden %d, %s", plan.grid_rows, plan.grid_cols,
                plan.packed ? "packed" : "unpacked");
  return p;
}

}  // namespace rnn
