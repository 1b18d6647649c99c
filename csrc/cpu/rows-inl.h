// How a row's numbers are walked, added up and compared: a thread has the whole row, in vectors.
// Included once per instruction set, inside rnn::RNN_ISA; the team of walk/heads-inl.h is this one thread.

// v, or its first lanes and zero.
template <class V> RNN_FN V live(V v) { return v; }
template <class V> RNN_FN V live(V v, int width) {
  typename V::Real lanes[V::kLanes];
  v.store(lanes);
  return V::load(lanes, width);
}

template <class V> RNN_FN typename V::Real first_lane(V v) {
  typename V::Real lanes[V::kLanes];
  v.store(lanes);
  return lanes[0];
}

// Calls f(j, width...) over n numbers, and adds up what it returns or takes the largest.
template <class Real, class F> RNN_FN void over_row(int64_t n, F&& f) {
  over_tile<Real>(1, static_cast<int>(n), [&](int, int j, auto... width) RNN_LAMBDA { f(j, width...); });
}
template <class Real, class F> RNN_FN void over_padded(int64_t n, F&& f) {  // where n is whole vectors
  for (int64_t j = 0; j < n; j += kLanes<Real>) f(j);
}
template <class Real, class F> RNN_FN Real sum_row(int64_t n, F&& f) {
  using V = Vector<Real>;
  V sum(0);
  over_row<Real>(n, [&](int j, auto... width) RNN_LAMBDA { sum = sum + live(f(j, width...), width...); });
  return V::sum(sum);
}
template <class Real> RNN_FN Real largest(const Real* x, int64_t n) {
  using V = Vector<Real>;
  V most(x[0]);
  over_row<Real>(n, [&](int j, auto... width) RNN_LAMBDA {
    if constexpr (sizeof...(width) == 0)
      most = V::max(most, V::load(x + j));
    else  // lanes beyond the end are zero: x may be less
      for (int64_t i = j; i < n; ++i) most = V::max(most, V(x[i]));
  });
  Real lanes[V::kLanes];
  most.store(lanes);
  for (int i = 1; i < V::kLanes; ++i) lanes[0] = max_of(lanes[0], lanes[i]);
  return lanes[0];
}

// The team's words: numbers one by one, what one of it does for all, sums over all it has.
template <class F> RNN_FN void over_numbers(int64_t from, int64_t to, F&& f) {
  for (int64_t j = from; j < to; ++j) f(j);
}
template <class F> RNN_FN void once(F&& f) { f(); }
template <class V> RNN_FN typename V::Real total(V v) { return V::sum(v); }

// Calls f(m) for each column of the memory. Inside, over_lanes and lanes_total stand for over_padded and total.
template <class F> RNN_FN void over_width(int64_t width, F&& f) {
  for (int64_t m = 0; m < width; ++m) f(m);
}
template <class Real, class F> RNN_FN void over_lanes(int64_t n, F&& f) { over_padded<Real>(n, f); }
template <class V> RNN_FN typename V::Real lanes_total(V v) { return V::sum(v); }
template <class F> RNN_FN void first_lane_does(F&& f) { f(); }

// Calls f(Indices<columns>, m) for several columns at a time: one sum alone would wait for itself.
template <class F> RNN_FN void over_width_by_four(int64_t width, F&& f) {
  int64_t m = 0;
  for (; m + 4 <= width; m += 4) f(Indices<4>{}, m);
  for (; m < width; ++m) f(Indices<1>{}, m);
}
// Calls f(Indices<vectors>, j) for two vectors of a padded row at a time.
template <class Real, class F> RNN_FN void over_padded_by_two(int64_t n, F&& f) {
  int64_t j = 0;
  for (; j + 2 * kLanes<Real> <= n; j += 2 * kLanes<Real>) f(Indices<2>{}, j);
  for (; j < n; j += kLanes<Real>) f(Indices<1>{}, j);
}

// Whether all gradients of reading and writing are made in one walk over the memory.
inline constexpr bool kOneWalk = true;
