// The core without torch or Python, for sanitizers: every cell with every option, precision, instruction set and layout
// of threads over odd sizes, each tensor between two fences. Gradients are held against central differences, float
// against double, pieces of a sequence against the whole, drawn masks against given ones, NaN-filled results, workspace
// and padding against results that depend on them. An argument: only that cell, or "ntm": only what
// core_driver_ntm.cpp checks. Exits 1 if anything disagrees.
// Under ThreadSanitizer (-DRNN_SANITIZE=thread) the threads are std's.
#include <cstring>

#include "core_driver_layers.h"

namespace {

using namespace driver;
using namespace driver::layers;

// ----------------------------------------------------------------------------------------------------------- checking

double weighted(const Results<double>& r, const Numbers& n) {
  double sum = 0;
  auto add = [&](const Block<double>& value, const std::vector<double>& by) {
    for (size_t i = 0; i < by.size(); ++i) sum += (*value)[i] * by[i];
  };
  add(r.out, n.grad_out);
  for (size_t s = 0; s < r.final.size(); ++s) {
    add(r.final[s], n.grad_final[s]);
    add(r.all[s], n.grad_all[s]);
  }
  return sum;
}

// Every gradient along one random direction of its tensor, against a central difference.
void differences(const Case& c, const Places& p, const Run& run, const Numbers& at, const Results<double>& r) {
  constexpr double kStep = 1e-6;
  for (size_t i = 0; i < at.tensors.size(); ++i) {
    if (at.tensors[i].empty()) continue;
    double slope = 0, scale = 0, ends[2];
    std::vector<double> direction(at.tensors[i].size());
    auto move = [&](int64_t j, int64_t gradient) {
      direction[j] = uniform();
      double term = (*r.grads[i])[gradient] * direction[j];
      slope += term;
      scale += std::abs(term);
    };
    if (i == kX)
      for (auto [x, place] : p.frames)
        for (int64_t j = 0; j < c.shape.I; ++j) move(x + j, place * c.shape.I + j);
    else
      for (size_t j = 0; j < direction.size(); ++j) move(j, j);
    for (int side = 0; side < 2; ++side) {
      Numbers moved = at;
      for (size_t j = 0; j < direction.size(); ++j) moved.tensors[i][j] += (side ? kStep : -kStep) * direction[j];
      ends[side] = weighted(Inputs<double>(c, p, moved).forward(run, false), at);
    }
    double found = (ends[1] - ends[0]) / (2 * kStep);
    ++checks;
    if (!agrees(slope, scale, found, ends[0]))
      fail(c, run, "double",
           "gradient " + std::to_string(i) + ": " + std::to_string(slope) + ", difference " + std::to_string(found));
  }
}

// What does not matter must not: what is saved, which gradients are asked for, pieces, where a mask comes from.
template <class Real>
Results<Real> agree(const Case& c, const Places& p, const Run& run, const Numbers& at, const char* precision,
                    bool thoroughly) {
  constexpr double kRounding = 64 * std::numeric_limits<Real>::epsilon();
  Inputs<Real> inputs(c, p, at);
  Results<Real> r = inputs.forward(run, true), again = inputs.forward(run, false);
  if (Apart a = distance(again, r); !a.within(0))
    fail(c, run, precision, "depends on what is saved, or differs from run to run: " + a.text(kRounding / 64));
  inputs.backward(run, r, true, true);
  ++checks;
  if (!thoroughly) return r;

  Results<Real> part = std::move(again);
  part.saved = std::make_unique<Tensor<Real>>(*r.saved);
  for (bool x : {false, true}) {
    inputs.backward(run, part, x, !x);
    for (size_t i = 0; i < part.grads.size(); ++i) {
      bool needed = i >= kFirst || (i == kX) == x;
      if (needed && distance(part.grads[i], r.grads[i]) != 0)
        fail(c, run, precision, "gradient " + std::to_string(i) + " depends on which gradients are asked for");
    }
    ++checks;
  }
  if (c.shape.T > 1) {
    if (Apart a = distance(inputs.pieces(run, (c.shape.T + 1) / 2), r); !a.within(kRounding))
      fail(c, run, precision, "differs by pieces: " + a.text(kRounding / 64));
    ++checks;
  }
  Options given = c.options;
  Numbers masked = at;
  for (int kind = kZoneH; kind <= kDropInput; ++kind) {
    if (c.source(kind) != kDrawn && c.source(kind) != kConstant) continue;
    Mask<Real> m = inputs.mask(kind);
    int64_t rows = (m.each_tick ? c.shape.T : 1) * c.shape.B;
    std::vector<Real> drawn(rows * m.row, static_cast<Real>(m.probability));
    Call<Real> k = inputs.call();
    for (int64_t i = 0; i < rows && c.source(kind) == kDrawn; ++i)
      kernels<Real>(run.isa).draw(static_cast<MaskKind>(kind), m, k.seed, k.stream, i / c.shape.B, i % c.shape.B, 0,
                                  m.row, drawn.data() + i * m.row);
    masked.masks[kind].assign(drawn.begin(), drawn.end());
    given.masks[kind] = kGiven;
  }
  Case explicit_case{c.cell, c.shape, given};
  Inputs<Real> by_hand(explicit_case, p, masked);
  Results<Real> same = by_hand.forward(run, true);
  by_hand.backward(run, same, true, true);
  if (Apart a = distance(same, r); !a.within(0))
    fail(c, run, precision, "depends on where masks come from: " + a.text(kRounding / 64));
  ++checks;
  return r;
}

std::vector<Plan> plans_of(const Case& c, const Places& p, Isa isa) {
  // Whatever the model says, every grid must work: more slices than rows, blocks that do not divide T.
  std::vector<Plan> plans{{1, 1, true, 1},         {2, 1, true, 1},  {1, 2, false, 3}, {2, 2, true, 2},
                          {1, 2, true, c.shape.T}, {1, 1, false, 2}, {2, 2, false, 1}, {3, 1, false, c.shape.T}};
  for (int threads : {1, 2})
    plans.push_back(make_plan(Pass::kForward, c.facts(), p.time, c.shape.I, c.shape.H, c.outputs(), c.fed(),
                              kernels<double>(isa).tile, 8, threads));
  return plans;
}

// The number of a case decides which plans each instruction set runs it with, so that all meet in the course of time.
void check(const Case& c, int number) {
  constexpr int kPlans = 3;
  Places p(c);
  Numbers at(c, p);
  std::vector<Isa> isas = available_isas();
  std::unique_ptr<Results<double>> first;
  for (size_t i = 0; i < isas.size(); ++i) {
    std::vector<Plan> plans = plans_of(c, p, isas[i]);
    // What costs most is done with one instruction set, each in turn.
    bool thoroughly = static_cast<size_t>(number) % isas.size() == i;
    for (int k = 0; k < kPlans; ++k) {
      Run run{isas[i], plans[(kPlans * (number + i) + k + number / plans.size()) % plans.size()]};
      Results<double> wide = agree<double>(c, p, run, at, "double", thoroughly && k == 0);
      Results<float> narrow = agree<float>(c, p, run, at, "float", thoroughly && k == 1);
      // Sums of some hundred terms over some ticks: a few dozen roundings at the most.
      constexpr double kFloat = std::numeric_limits<float>::epsilon(), kDouble = std::numeric_limits<double>::epsilon();
      if (Apart a = distance(narrow, wide); !a.within(64 * kFloat))
        fail(c, run, "float", "differs from double: " + a.text(kFloat));
      if (first)
        if (Apart a = distance(wide, *first); !a.within(64 * kDouble))
          fail(c, run, "double", "differs from the first run: " + a.text(kDouble));
      checks += 2;
      if (thoroughly && k == 0 && c.is_true_gradient()) differences(c, p, run, at, wide);
      if (!first) first = std::make_unique<Results<double>>(std::move(wide));
    }
  }
}

// The generator's published first words, by masks of a probability just below and just above them.
template <class Real> void check_generator(Isa isa) {
  constexpr uint32_t kWords[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};  // of counter and key 0
  for (int w = 0; w < 4; ++w)
    for (int above = 0; above < 2; ++above) {
      Mask<Real> m{};
      m.source = Mask<Real>::kDrawn;
      m.probability = (kWords[w] + static_cast<double>(above)) / 4294967296.0;
      Tensor<Real> drawn(1, -1);
      kernels<Real>(isa).draw(kZoneH, m, 0, 0, 0, 0, 16 * w, 1, drawn.data());
      ++checks;
      if (drawn[0] == above) continue;
      ++failures;
      std::printf("FAILED %s: word %d of Philox4x32-10 is not as published\n", isa_name(isa), w);
    }
}

}  // namespace

int main(int argc, char** argv) {
  for (Isa isa : available_isas()) {
    check_generator<float>(isa);
    check_generator<double>(isa);
  }
  int number = 0;
  for (int cell = 0; cell < cell_count(); ++cell) {
    if (argc > 1 && std::strcmp(argv[1], cell_facts(cell).name)) continue;
    // Each cell meets every option and every shape twice; which of them together differs from cell to cell.
    for (size_t i = 0; i < kOptions.size(); ++i) {
      for (size_t shape : {i + cell, i + cell + 5})
        check({cell, kShapes[shape % kShapes.size()], kOptions[i]}, number++);
      if (cell_facts(cell).projection) check({cell, kProjections[i % kProjections.size()], kOptions[i]}, number++);
    }
  }
  const int of_cells = checks;
  if (argc == 1 || !std::strcmp(argv[1], "ntm")) check_ntm();
  std::printf("%d checks of cells, %d of machines, %d failures\n", of_cells, checks - of_cells, failures);
  return failures ? 1 : 0;
}
