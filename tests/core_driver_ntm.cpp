// The kernels of the Neural Turing Machine, by the same means as the cells': with both controllers and without one, in
// every order and convention of the heads. A saving forward is held against one that saves nothing, several threads
// against one, pieces of a sequence against the whole.
#include "core_driver_machines.h"

namespace driver {
namespace {

using namespace driver::machines;

// ----------------------------------------------------------------------------------------------------------- checking

double weighted(const Results<double>& r, const Numbers& n) {
  auto dot = [](const Block<double>& value, const std::vector<double>& by) {
    return std::inner_product(by.begin(), by.end(), value->begin(), 0.0);
  };
  double sum = dot(r.features, n.grad_features);
  for (int s = 0; s < kNtmStates; ++s) sum += dot(r.ends.back()[s], n.grad_final[s]);
  return sum;
}

// Every gradient along one random direction of its tensor, against a central difference.
void differences(const Case& c, const Places& p, const Way& way, const Numbers& at, const Results<double>& r) {
  constexpr double kStep = 1e-6;
  for (int i = 0; i < kTensors; ++i) {
    if (at.tensors[i].empty() || (i == kState + kMemory && c.size.blank)) continue;  // the norm of zero has a kink
    double slope = 0, scale = 0, ends[2];
    Numbers moved[2] = {at, at};
    for (size_t j = 0; j < at.tensors[i].size(); ++j) {
      double direction = uniform(), term = (*r.grads[i])[j] * direction;
      slope += term;
      scale += std::abs(term);
      for (int side = 0; side < 2; ++side) moved[side].tensors[i][j] += (side ? kStep : -kStep) * direction;
    }
    for (int side = 0; side < 2; ++side)
      ends[side] = weighted(Inputs<double>(c, p, moved[side]).forward(way, c.size.T), at);
    double found = (ends[1] - ends[0]) / (2 * kStep);
    ++checks;
    if (!agrees(slope, scale, found, ends[0]))
      fail(c, way, "double",
           "gradient " + std::to_string(i) + ": " + std::to_string(slope) + ", difference " + std::to_string(found));
  }
}

// What does not matter must not: threads, packing, whether x's gradient is asked for, pieces.
template <class Real> Results<Real> agree(const Case& c, const Places& p, const Way& one, const Numbers& at) {
  constexpr double kEps = std::numeric_limits<Real>::epsilon();
  const int64_t T = c.size.T;
  Inputs<Real> inputs(c, p, at);
  Results<Real> r = inputs.both(one, T);
  auto compare = [&](const Way& way, int64_t length, bool needs_x, double limit, const char* what) {
    ++checks;
    if (Apart a = distance(inputs.both(way, length, needs_x), r); !a.within(limit * kEps))
      fail(c, way, inputs.precision, what + a.text(kEps));
  };
  for (int threads : {2, 3}) compare({one.isa, threads, one.packed, false}, T, true, 0, "differs by threads: ");
  // Other groups of rows, and other products, may add up in another order.
  compare({one.isa, 3, !one.packed, true}, T, !c.m.layers, c.m.layers ? kRoundings : 0,
          "differs by shares or packing: ");
  if (T > 1) compare({one.isa, 2, one.packed, true}, (T + 1) / 2, true, kRoundings, "differs by pieces: ");

  for (int s = 0; s < kNtmStates; ++s)  // a row without ticks ends where it began
    for (int64_t i = 0, n = c.row_numbers(s); c.has_state(s) && i < c.state_numbers(s) / std::max<int64_t>(n, 1); ++i)
      if (!c.size.lengths.empty() && c.size.lengths[i % c.size.B] == 0 &&
          !std::equal(r.ends[0][s]->begin() + i * n, r.ends[0][s]->begin() + (i + 1) * n,
                      inputs.tensors[kState + s]->begin() + i * n))
        fail(c, one, inputs.precision, "a row without ticks changed state " + std::to_string(s));
  return r;
}

void check(const Case& c, int number) {
  Places p(c);
  Numbers at(c, p);
  std::vector<Isa> isas = available_isas();
  std::unique_ptr<Results<double>> first;
  for (size_t i = 0; i < isas.size(); ++i) {
    Way way{isas[i], 1, (number + i) % 2 == 0, false};
    Results<double> wide = agree<double>(c, p, way, at);
    Results<float> narrow = agree<float>(c, p, way, at);
    constexpr double kFloat = std::numeric_limits<float>::epsilon(), kDouble = std::numeric_limits<double>::epsilon();
    if (Apart a = distance(narrow, wide); !a.within(kRoundings * kFloat))
      fail(c, way, "float", "differs from double: " + a.text(kFloat));
    if (first)
      if (Apart a = distance(wide, *first); !a.within(kRoundings * kDouble))
        fail(c, way, "double", "differs from the first instruction set: " + a.text(kDouble));
    checks += 2;
    if (static_cast<size_t>(number) % isas.size() == i) differences(c, p, way, at, wide);
    if (!first) first = std::make_unique<Results<double>>(std::move(wide));
  }
}

}  // namespace

// Each set of conventions meets three sizes.
void check_ntm() {
  state = 1;  // whatever ran before
  int number = 0;
  for (size_t i = 0; i < kConventions.size(); ++i)
    for (size_t size : {i, i + 4, i + 7}) check({kConventions[i], kSizes[size % kSizes.size()]}, number++);
}

}  // namespace driver
