// Row statistics of layer normalisation, over numbers that several threads own parts of.
// Included once per instruction set, inside rnn::RNN_ISA.

template <class Real, class F> RNN_FN Real sum_over(int64_t n, F&& f) {
  using V = Vector<Real>;
  constexpr int L = kLanes<Real>;
  V sum(0);
  int64_t j = 0;
  for (; j + L <= n; j += L) sum = sum + f(j);
  Real total = V::sum(sum);
  if (j < n) {
    Real rest[L];
    f(j, static_cast<int>(n - j)).store(rest);
    for (int i = 0; i < n - j; ++i) total += rest[i];
  }
  return total;
}

// Count, mean and summed squared distance from it; parts are put together as Chan, Golub & LeVeque 1983 do, in double:
// the mean may be many times the deviation, and is made of many parts.
struct Moments {
  static constexpr int kNumbers = 3;
  double count = 0, mean = 0, distance = 0;

  void merge(double n, double other_mean, double other_distance) {
    if (n == 0) return;
    double all = count + n, apart = other_mean - mean;
    mean += apart * (n / all);
    distance += other_distance + apart * apart * (count * n / all);
    count = all;
  }
  void merge(const double* part) { merge(part[0], part[1], part[2]); }
  void store(double* part) const { part[0] = count, part[1] = mean, part[2] = distance; }

  template <class Real> void add(const Real* x, int64_t n) {
    using V = Vector<Real>;
    if (n == 0) return;
    Real m = sum_over<Real>(n, [&](int64_t j, auto... width) RNN_LAMBDA { return V::load(x + j, width...); }) / Real(n);
    auto apart = [&](int64_t j, auto... width) RNN_LAMBDA { return V::load(x + j, width...) - V(m); };
    auto square = [&](int64_t j, auto... width) RNN_LAMBDA { return apart(j, width...) * apart(j, width...); };
    double rest = sum_over<Real>(n, apart), distance = sum_over<Real>(n, square);  // from m, which is rounded
    double count = static_cast<double>(n);
    merge(count, m + rest / count, distance - rest * rest / count);
  }
  double scale(double eps) const { return 1 / __builtin_sqrt(distance / (count > 0 ? count : 1) + eps); }
};

template <class Real> void normalise(Real* x, int64_t n, Real mean, Real scale) {
  for (int64_t j = 0; j < n; ++j) x[j] = (x[j] - mean) * scale;
}

// The gradient of what was normalised from that of the normalised values y, in place, over a whole row of n.
template <class Real> void normalise_gradient(Real* d, const Real* y, int64_t n, Real scale) {
  using V = Vector<Real>;
  if (n == 0) return;
  Real mean = sum_over<Real>(n, [&](int64_t j, auto... width) RNN_LAMBDA { return V::load(d + j, width...); });
  Real along = sum_over<Real>(
      n, [&](int64_t j, auto... width) RNN_LAMBDA { return V::load(d + j, width...) * V::load(y + j, width...); });
  mean /= Real(n);
  along /= Real(n);
  for (int64_t j = 0; j < n; ++j) d[j] = (d[j] - mean - y[j] * along) * scale;
}
