// The heads of one row at one tick: addressing, reading, writing, and their gradients. Vectors run over the memory's
// rows. Included once per machine, inside its namespace, where over_row, sum_row, once, total and their kin say who
// does it: on the CPU one thread (cpu/rows-inl.h), on a card a block of them (cuda/team.cuh).

template <class Real> class HeadRow {
  using V = Vector<Real>;

 public:
  RNN_FN HeadRow(Arena& arena, const Machine& machine, const Record& record, bool backward)
      : m_(machine), at_(record), rows_(machine.padded_rows()) {
    int64_t halo = Machine::pad(m_.shift.range) + rows_ + m_.shift.range + V::kLanes;
    gated_ = arena.take<Real>(halo) + Machine::pad(m_.shift.range);
    shifted_ = arena.take<Real>(rows_);
    writers_ = arena.take<Writer>(m_.writes + 1);
    readers_ = arena.take<Reader>(m_.reads + 1);
    if (!backward) return;
    dvalue_ = arena.take<Real>(Machine::pad(m_.parameters()) + V::kLanes);
    dshifted_ = arena.take<Real>(halo) + Machine::pad(m_.shift.range);
    ddot_ = arena.take<Real>(m_.heads() * rows_);
    along_ = arena.take<Real>(rows_);
    chain_ = arena.take<Real>((m_.writes + 1) * V::kLanes);
  }

  // One tick. `record` holds the parameters, and takes what is saved; `before`: the weightings of the tick before,
  // which may be its own.
  RNN_MACHINE_FN void forward(Real* record, const Real* before, Real* memory, Real* reads) {
    value_ = record + at_.values;
    if (!m_.activated) activate(record + at_.parameters, record + at_.values);
    for (int p = 0; p < m_.phases(); ++p) {
      Phase phase = m_.phase(p);
      if (!phase.heads()) continue;
      by_four(phase, [&]<int KN>(Indices<KN>, int first) {
        compare<KN>(phase, first, memory, record, record + at_.norms + p * rows_);
      });
      for (int k = 0; k < phase.heads(); ++k) focus(phase.head(k), record, before);
      for (int h = phase.reads.from; h < phase.reads.to; ++h) read(memory, weighting(record, h), reads + h * m_.width);
      if (phase.writes.size()) write(phase.writes, memory, record, memory);
    }
  }

  // The writes of a tick once more, at most `count` of them, each to the next version of the memory.
  RNN_MACHINE_FN void replay(const Real* record, Real* memory, int count) {
    value_ = record + at_.values;
    for (int p = 0; p < m_.phases() && count; ++p) {
      Phase phase = m_.phase(p);
      if (!phase.writes.size()) continue;
      write(phase.writes, memory, record, memory + m_.memory_numbers());
      memory += m_.memory_numbers();
      --count;
    }
  }

  // The gradients of one tick. `dweighting` (K, padded rows) and `dmemory` are of what the tick left, then of what it
  // found; `dreads` of what was read; `dparameters` is written. `memory` is what the tick found, and what each write
  // left that a later phase sees.
  RNN_MACHINE_FN void backward(const Real* record, const Real* before, const Real* memory, const Real* dreads,
                               Real* dweighting, Real* dmemory, Real* dparameters) {
    value_ = record + at_.values;
    for (int p = m_.phases() - 1; p >= 0; --p) {
      Phase phase = m_.phase(p);
      if (!phase.heads()) continue;
      const Real* found = memory + m_.versions(p) * m_.memory_numbers();
      access_backward(phase, found, record, dreads, dweighting, dmemory);
      over_padded<Real>(rows_, [&](int64_t j) RNN_LAMBDA { V(0).store(along_ + j); });
      for (int k = 0; k < phase.heads(); ++k)
        focus_backward(phase.head(k), record, before, record + at_.norms + p * rows_, dweighting);
      by_four(phase, [&]<int KN>(Indices<KN>, int first) { compare_backward<KN>(phase, first, found, dmemory); });
    }
    activate_backward(record + at_.parameters, dparameters);
  }

 private:
  template <class Row> RNN_MACHINE_FN auto weighting(Row* record, int h) const {
    return record + at_.weightings + h * rows_;
  }
  template <class Row> RNN_MACHINE_FN auto content(Row* record, int h) const {
    return record + at_.contents + h * rows_;
  }
  template <class Row> RNN_MACHINE_FN auto similarity(Row* record, int h) const {
    return record + at_.similarities + h * rows_;
  }

  // Calls f(Indices<heads>, first) for at most four heads of a phase at a time: so many read the memory in one go.
  template <class F> RNN_MACHINE_FN static void by_four(const Phase& phase, F&& f) {
    for (int first = 0; first < phase.heads(); first += 4) {
      int n = min_of(4, phase.heads() - first);
      n == 1   ? f(Indices<1>{}, first)
      : n == 2 ? f(Indices<2>{}, first)
      : n == 3 ? f(Indices<3>{}, first)
               : f(Indices<4>{}, first);
    }
  }

  // What head h takes, activated, and the gradient of that.
  RNN_MACHINE_FN const Real* of(int h) const { return value_ + m_.head_at(h); }
  RNN_MACHINE_FN Real* dof(int h) const { return dvalue_ + m_.head_at(h); }
  RNN_MACHINE_FN Real key_norm(int h) const {
    const Real* key = of(h);
    auto square = [&](int j, auto... width) RNN_LAMBDA {
      V k = V::load(key + j, width...);
      return k * k;
    };
    return first_lane(V::sqrt(V(sum_row<Real>(m_.width, square))));
  }
  RNN_MACHINE_FN Cosine<V> cosine() const { return {m_.guard, V(static_cast<Real>(m_.eps))}; }

  // ---------------------------------------------------------------------------------------------------- activations

  RNN_MACHINE_FN V clip(V x) const {
    V bound(static_cast<Real>(m_.head_clip));
    return V::max(V(0) - bound, V::min(bound, x));
  }
  template <class F> RNN_MACHINE_FN void apply(const Real* raw, int64_t n, Real* to, F&& f) const {
    over_row<Real>(
        n, [&](int j, auto... width) RNN_LAMBDA { f(clip(V::load(raw + j, width...))).store(to + j, width...); });
  }

  RNN_MACHINE_FN void activate(const Real* raw, Real* values) const {
    for (int h = 0; h < m_.heads(); ++h) {
      const Real* x = raw + m_.head_at(h);
      Real* y = values + m_.head_at(h);
      squash(m_.tanh_key, x, y);
      apply(x + m_.strength(), 1, y + m_.strength(), [](V v) RNN_LAMBDA { return softplus(v); });
      apply(x + m_.gate(), 1, y + m_.gate(), [](V v) RNN_LAMBDA { return sigmoid(v); });
      apply(x + m_.sharpening(), 1, y + m_.sharpening(), [](V v) RNN_LAMBDA { return V(1) + softplus(v); });
      Real* s = y + m_.shifts();
      apply(x + m_.shifts(), m_.shift.width(), s, [](V v) RNN_LAMBDA { return v; });
      softmax(s, V(1), m_.shift.width(), s);
      if (!m_.writes_at(h)) continue;
      apply(x + m_.erase(), m_.width, y + m_.erase(), [](V v) RNN_LAMBDA { return sigmoid(v); });
      squash(m_.tanh_add, x + m_.add(), y + m_.add());
    }
  }
  RNN_MACHINE_FN void squash(bool tanhs, const Real* x, Real* y) const {
    if (tanhs)
      apply(x, m_.width, y, [](V v) RNN_LAMBDA { return tanh(v); });
    else
      apply(x, m_.width, y, [](V v) RNN_LAMBDA { return v; });
  }

  // f(raw, activated, gradient of that) is the gradient of the raw one, where it was not clipped.
  template <class F> RNN_MACHINE_FN void pull(const Real* raw, const Real* y, const Real* dy, int64_t n, Real* to,
                                              F&& f) const {
    V bound(static_cast<Real>(m_.head_clip));
    over_row<Real>(n, [&](int j, auto... width) RNN_LAMBDA {
      V x = V::load(raw + j, width...);
      V d = f(clip(x), V::load(y + j, width...), V::load(dy + j, width...));
      (d * V::one_if_positive(bound - V::abs(x), V(0))).store(to + j, width...);
    });
  }
  RNN_MACHINE_FN void activate_backward(const Real* raw, Real* to) {
    if (m_.activated) return copy(to, dvalue_, m_.parameters());
    auto linear = [](V, V, V d) RNN_LAMBDA { return d; };
    auto tanhs = [](V, V y, V d) RNN_LAMBDA { return d * dtanh(y); };
    auto logistic = [](V, V y, V d) RNN_LAMBDA { return d * dsigmoid(y); };
    auto rises = [](V x, V, V d) RNN_LAMBDA { return d * sigmoid(x); };  // softplus
    for (int h = 0; h < m_.heads(); ++h) {
      const Real* x = raw + m_.head_at(h);
      const Real *y = of(h), *d = dof(h);
      Real* dx = to + m_.head_at(h);
      auto part = [&](int64_t from, int64_t n, auto& f) { pull(x + from, y + from, d + from, n, dx + from, f); };
      m_.tanh_key ? part(0, m_.width, tanhs) : part(0, m_.width, linear);
      part(m_.strength(), 1, rises);
      part(m_.gate(), 1, logistic);
      part(m_.sharpening(), 1, rises);
      Real along = 0;
      for (int j = 0; j < m_.shift.width(); ++j) along += y[m_.shifts() + j] * d[m_.shifts() + j];
      auto distribution = [&](V, V y, V d) RNN_LAMBDA { return y * (d - V(along)); };
      part(m_.shifts(), m_.shift.width(), distribution);
      if (!m_.writes_at(h)) continue;
      part(m_.erase(), m_.width, logistic);
      m_.tanh_add ? part(m_.add(), m_.width, tanhs) : part(m_.add(), m_.width, linear);
    }
  }

  // ------------------------------------------------------------------------------------------------------ addressing

  // The similarity of each head's key with each row, and the rows' norms.
  template <int KN>
  RNN_MACHINE_FN void compare(const Phase& phase, int first, const Real* memory, Real* record, Real* norms) const {
    const Real* key[KN];
    Real* to[KN];
    V norm[KN];
    for (int k = 0; k < KN; ++k) {
      int h = phase.head(first + k);
      key[k] = of(h);
      to[k] = similarity(record, h);
      norm[k] = V(key_norm(h));
    }
    auto columns = [&]<int NV>(Indices<NV>, int64_t i) RNN_LAMBDA {
      constexpr int L = V::kLanes;
      V dot[KN][NV], squares[NV];
      RNN_UNROLL(2)
      for (int v = 0; v < NV; ++v) {
        squares[v] = V(0);
        RNN_UNROLL(4)
        for (int k = 0; k < KN; ++k) dot[k][v] = V(0);
      }
      for (int64_t m = 0; m < m_.width; ++m) RNN_UNROLL(2)
      for (int v = 0; v < NV; ++v) {
        V x = V::load(memory + m * rows_ + i + v * L);
        squares[v] = V::fma(x, x, squares[v]);
        RNN_UNROLL(4)
        for (int k = 0; k < KN; ++k) dot[k][v] = V::fma(V::broadcast(key[k] + m), x, dot[k][v]);
      }
      RNN_UNROLL(2)
      for (int v = 0; v < NV; ++v) {
        V length = V::sqrt(squares[v]);
        length.store(norms + i + v * L);
        RNN_UNROLL(4)
        for (int k = 0; k < KN; ++k) cosine().forward(dot[k][v], norm[k], length).store(to[k] + i + v * L);
      }
    };
    over_padded_by_two<Real>(rows_, columns);
    over_numbers(m_.rows, rows_, [&](int64_t j) {  // without a guard nothing over nothing would stand here
      norms[j] = 1;
      RNN_UNROLL(4)
      for (int k = 0; k < KN; ++k) to[k][j] = 0;
    });
  }

  // to = softmax(strength x) over n entries; in place, if that is where x lies.
  RNN_MACHINE_FN void softmax(const Real* x, V strength, int64_t n, Real* to) const {
    V most(largest(x, n));
    Real sum = sum_row<Real>(n, [&](int j, auto... width) RNN_LAMBDA {
      V e = exp(strength * (V::load(x + j, width...) - most));
      e.store(to + j, width...);
      return e;
    });
    over_row<Real>(
        n, [&](int j, auto... width) RNN_LAMBDA { (V::load(to + j, width...) / V(sum)).store(to + j, width...); });
  }

  // Entries of a weighting beyond its ends, around which it is closed.
  RNN_MACHINE_FN void close(Real* w) const {
    over_numbers(0, m_.shift.range, [&](int64_t j) {
      w[-1 - j] = w[m_.rows - 1 - j % m_.rows];
      w[m_.rows + j] = w[j % m_.rows];
    });
  }
  // The weighting after interpolation, closed, and after the shift.
  RNN_MACHINE_FN void gate_and_shift(int h, const Real* contents, const Real* before) {
    V gate(of(h)[m_.gate()]);
    over_row<Real>(m_.rows, [&](int j, auto... width) RNN_LAMBDA {
      V w = Interpolation::forward(gate, V::load(contents + j, width...), V::load(before + j, width...));
      w.store(gated_ + j, width...);
    });
    close(gated_);
    const Real* distribution = of(h) + m_.shifts();
    over_row<Real>(m_.rows, [&](int j, auto... width) RNN_LAMBDA {
      auto at = [&](int n) RNN_LAMBDA { return V::load(gated_ + j + n); };
      live(m_.shift.template forward<V>(distribution, at), width...).store(shifted_ + j);
    });
  }

  RNN_MACHINE_FN void focus(int h, Real* record, const Real* all_before) {
    const Real* parameters = of(h);
    Real *contents = content(record, h), *w = weighting(record, h);
    softmax(similarity(record, h), V(parameters[m_.strength()]), m_.rows, contents);
    over_numbers(m_.rows, rows_, [&](int64_t j) { contents[j] = 0; });
    gate_and_shift(h, contents, all_before + h * rows_);
    V most(largest(shifted_, m_.rows)), gamma(parameters[m_.sharpening()]);
    Real sum = sum_row<Real>(m_.rows, [&](int j, auto... width) RNN_LAMBDA {
      V power = Sharpening::power(Sharpening::log_ratio(V::load(shifted_ + j), most), gamma);
      power.store(w + j, width...);
      return power;
    });
    // The sum is of ratios to the largest: what is added to the sum of the entries' own powers is divided by its too.
    if (m_.sharpen_eps > 0)
      sum += static_cast<Real>(m_.sharpen_eps) * first_lane(exp(V(0) - gamma * log(Sharpening::raised(most))));
    over_row<Real>(
        m_.rows, [&](int j, auto... width) RNN_LAMBDA { (V::load(w + j, width...) / V(sum)).store(w + j, width...); });
    over_numbers(m_.rows, rows_, [&](int64_t j) { w[j] = 0; });
  }

  // dweighting of head h becomes that of the tick before; leaves the gradients of its scalars and shifts, of its dot
  // products, of its key by way of |key|, and adds to what the rows are multiplied with for their norms' sake.
  RNN_MACHINE_FN void focus_backward(int h, const Real* record, const Real* all_before, const Real* norms,
                                     Real* all_dw) {
    const Real *parameters = of(h), *contents = content(record, h), *w = weighting(record, h),
               *similarities = similarity(record, h), *before = all_before + h * rows_;
    Real *d = dof(h), *dw = all_dw + h * rows_;
    const int64_t n = m_.rows;
    gate_and_shift(h, contents, before);

    V most(largest(shifted_, n)), gamma(parameters[m_.sharpening()]), dgamma(0);
    auto along = [&](const Real* a, const Real* b) RNN_LAMBDA {
      return sum_row<Real>(n, [&](int j, auto...) RNN_LAMBDA { return V::load(a + j) * V::load(b + j); });
    };
    V dw_sum(along(dw, w));
    over_row<Real>(n, [&](int j, auto... width) RNN_LAMBDA {
      V shifted = V::load(shifted_ + j), dbefore, dg;
      Sharpening::backward(V::load(dw + j), dw_sum, V::load(w + j), shifted, Sharpening::log_ratio(shifted, most),
                           gamma, dbefore, dg);
      live(dbefore, width...).store(dshifted_ + j);
      dgamma = dgamma + live(dg, width...);
    });
    Real more = 0;
    if (m_.sharpen_eps > 0) {  // the weighting sums to less than 1, and the ratio's own factor has a part
      Real total = sum_row<Real>(n, [&](int j, auto...) RNN_LAMBDA { return V::load(w + j); });
      more = first_lane(log(Sharpening::raised(most)) * dw_sum) * (1 - total);
    }
    Real sharpening = total(dgamma) + more;
    once([&] { d[m_.sharpening()] = sharpening; });

    close(dshifted_);
    const Real* distribution = parameters + m_.shifts();
    for (int s = 0; s < m_.shift.width(); ++s) {
      const Real* from = gated_ - m_.shift.of(s);
      Real sum =
          sum_row<Real>(n, [&](int j, auto...) RNN_LAMBDA { return V::load(dshifted_ + j) * V::load(from + j); });
      once([&] { d[m_.shifts() + s] = sum; });
    }
    V gate(parameters[m_.gate()]), dgate(0);
    Real* dcontents = shifted_;
    over_row<Real>(n, [&](int j, auto... width) RNN_LAMBDA {
      auto at = [&](int k) RNN_LAMBDA { return V::load(dshifted_ + j + k); };
      V dgated = live(m_.shift.template backward<V>(distribution, at), width...), dg, dc, db;
      Interpolation::backward(dgated, gate, V::load(contents + j), V::load(before + j), dg, dc, db);
      dgate = dgate + dg;
      dc.store(dcontents + j);
      db.store(dw + j);
    });
    Real dgates = total(dgate);
    once([&] { d[m_.gate()] = dgates; });

    V strength(parameters[m_.strength()]), dcontents_sum(along(dcontents, contents)), dstrength(0), dkey(0);
    V norm(key_norm(h));
    over_row<Real>(n, [&](int j, auto...) RNN_LAMBDA {
      V K = V::load(similarities + j), ddot, dnorm, own;
      V dlogit = V::load(contents + j) * (V::load(dcontents + j) - dcontents_sum);
      dstrength = V::fma(dlogit, K, dstrength);
      cosine().backward(dlogit * strength, K, norm, V::load(norms + j), ddot, dnorm, own);
      dkey = dkey + dnorm;
      ddot.store(ddot_ + h * rows_ + j);
      (V::load(along_ + j) + own).store(along_ + j);
    });
    over_numbers(ceil_div(n, V::kLanes) * V::kLanes, rows_, [&](int64_t j) { ddot_[h * rows_ + j] = 0; });
    Real dstrengths = total(dstrength);
    once([&] { d[m_.strength()] = dstrengths; });
    // of |key|, along the key; a key of zeros has no direction
    V scale = V(total(dkey)) / V::max(norm, V(Cosine<V>::kShortest));
    over_row<Real>(m_.width, [&](int j, auto... width)
                                 RNN_LAMBDA { (V::load(parameters + j, width...) * scale).store(d + j, width...); });
  }

  // From the gradients of the dot products and norms: those of keys, and of the memory. Both parts of the latter are
  // added up first: for a narrow memory they all but cancel.
  template <int KN> RNN_MACHINE_FN void compare_backward(const Phase& phase, int first, const Real* memory,
                                                         Real* dmemory) {
    const Real *key[KN], *ddot[KN];
    for (int k = 0; k < KN; ++k) {
      int h = phase.head(first + k);
      key[k] = of(h), ddot[k] = ddot_ + h * rows_;
    }
    over_width(m_.width, [&](int64_t m) RNN_LAMBDA {
      const Real* row = memory + m * rows_;
      Real* drow = dmemory + m * rows_;
      V dkey[KN];
      RNN_UNROLL(4)
      for (int k = 0; k < KN; ++k) dkey[k] = V(0);
      over_lanes<Real>(rows_, [&](int64_t j) RNN_LAMBDA {
        V x = V::load(row + j), dx = first ? V(0) : x * V::load(along_ + j);
        RNN_UNROLL(4)
        for (int k = 0; k < KN; ++k) {
          V d = V::load(ddot[k] + j);
          dkey[k] = V::fma(d, x, dkey[k]);
          dx = V::fma(d, V::broadcast(key[k] + m), dx);
        }
        (V::load(drow + j) + dx).store(drow + j);
      });
      RNN_UNROLL(4)
      for (int k = 0; k < KN; ++k) {
        Real sum = lanes_total(dkey[k]);
        first_lane_does([&] { dof(phase.head(first + k))[m] += sum; });
      }
    });
  }

  // ------------------------------------------------------------------------------------------------ reading, writing

  RNN_MACHINE_FN void read(const Real* memory, const Real* w, Real* to) const {
    over_width_by_four(m_.width, [&]<int KM>(Indices<KM>, int64_t first) RNN_LAMBDA {
      const Real* from = memory + first * rows_;
      V sum[KM];
      RNN_UNROLL(4)
      for (int m = 0; m < KM; ++m) sum[m] = V(0);
      over_lanes<Real>(rows_, [&](int64_t j) RNN_LAMBDA {
        V of_row = V::load(w + j);
        RNN_UNROLL(4)
        for (int m = 0; m < KM; ++m) sum[m] = Read::forward(sum[m], of_row, V::load(from + m * rows_ + j));
      });
      RNN_UNROLL(4)
      for (int m = 0; m < KM; ++m) {
        Real of_all = lanes_total(sum[m]);
        first_lane_does([&] { to[first + m] = of_all; });
      }
    });
  }
  // What a head that reads or writes has, and the gradients of it.
  struct Reader {
    const Real *w, *dread;
    Real* dw;
  };
  struct Writer {
    const Real *w, *erase, *add;
    Real *dw, *derase, *dadd;
  };
  RNN_MACHINE_FN Writer* find(Heads heads, const Real* record, Real* all_dw) const {
    over_numbers(0, heads.size(), [&](int64_t k) {
      int h = heads.from + static_cast<int>(k);
      writers_[k] = {weighting(record, h), of(h) + m_.erase(), of(h) + m_.add(), nullptr, nullptr, nullptr};
      if (!all_dw) return;
      writers_[k].dw = all_dw + h * rows_;
      writers_[k].derase = dof(h) + m_.erase();
      writers_[k].dadd = dof(h) + m_.add();
    });
    return writers_;
  }

  RNN_MACHINE_FN void write(Heads heads, const Real* memory, const Real* record, Real* to) const {
    Writer* by = find(heads, record, nullptr);
    heads.size() == 1 ? write<1>(by, 1, memory, to) : write<0>(by, heads.size(), memory, to);
  }
  // KN: how many heads write, where that is known here; else 0.
  template <int KN> RNN_MACHINE_FN void write(const Writer* writers, int count, const Real* memory, Real* to) const {
    const Writer one = writers[0], *by = KN == 1 ? &one : writers;
    const int n = KN ? KN : count;
    over_width(m_.width, [&](int64_t m) RNN_LAMBDA {
      over_lanes<Real>(rows_, [&](int64_t j) RNN_LAMBDA {
        V x = V::load(memory + m * rows_ + j);
        for (int k = 0; k < n; ++k) x = Erase::forward(x, V::load(by[k].w + j), V::broadcast(by[k].erase + m));
        for (int k = 0; k < n; ++k) x = Add::forward(x, V::load(by[k].w + j), V::broadcast(by[k].add + m));
        x.store(to + m * rows_ + j);
      });
    });
  }

  // From the gradient of the memory that a phase left, and of what was read: that of the memory it found, as far as
  // reading and writing go, and of the weightings, erase and add vectors.
  RNN_MACHINE_FN void access_backward(const Phase& phase, const Real* memory, const Real* record, const Real* dreads,
                                      Real* all_dw, Real* dmemory) {
    Writer* writers = find(phase.writes, record, all_dw);
    over_numbers(0, phase.reads.size(), [&](int64_t k) {
      int h = phase.reads.from + static_cast<int>(k);
      readers_[k] = {weighting(record, h), dreads + h * m_.width, all_dw + h * rows_};
    });
    const int reads = phase.reads.size(), writes = phase.writes.size();
    if constexpr (!kOneWalk)
      access_backward_by_team(readers_, reads, writers, writes, memory, dmemory);
    else if (reads == 1 && writes == 1)
      access_backward<true>(readers_, 1, writers, 1, memory, dmemory);
    else
      access_backward<false>(readers_, reads, writers, writes, memory, dmemory);
  }
  // Erases are gone through backwards, each finding what the ones before it had left, which is made once more. kPair:
  // one head reads and one writes, which is known when this is compiled.
  template <bool kPair>
  RNN_MACHINE_FN void access_backward(const Reader* readers, int reads, const Writer* writers, int writes,
                                      const Real* memory, Real* dmemory) {
    const Reader one_reader = kPair ? readers[0] : Reader{}, *reader = kPair ? &one_reader : readers;
    const Writer one_writer = kPair ? writers[0] : Writer{}, *writer = kPair ? &one_writer : writers;
    const int nr = kPair ? 1 : reads, nw = kPair ? 1 : writes;
    for (int64_t m = 0; m < m_.width; ++m) {
      Real* drow = dmemory + m * rows_;
      V derase(0), dadd(0);  // of a single writer; of several they are summed where they lie
      for (int k = 0; k < nw && nw > 1; ++k) writer[k].derase[m] = writer[k].dadd[m] = 0;
      over_padded<Real>(rows_, [&](int64_t j) RNN_LAMBDA {
        V after = V::load(drow + j), d = after, found = V::load(memory + m * rows_ + j), x = found;
        for (int k = 0; k < nw && nw > 1; ++k) {
          x.store(chain_ + k * V::kLanes);
          x = Erase::forward(x, V::load(writer[k].w + j), V::broadcast(writer[k].erase + m));
        }
        for (int k = nw - 1; k >= 0; --k) {
          V w = V::load(writer[k].w + j), dw = V::load(writer[k].dw + j), de(0), da(0);
          if (nw > 1) x = V::load(chain_ + k * V::kLanes);
          Add::backward(after, w, V::broadcast(writer[k].add + m), dw, nw > 1 ? da : dadd);
          Erase::backward(x, w, V::broadcast(writer[k].erase + m), d, dw, nw > 1 ? de : derase);
          dw.store(writer[k].dw + j);
          if (nw == 1) continue;
          writer[k].derase[m] += V::sum(de);
          writer[k].dadd[m] += V::sum(da);
        }
        for (int k = 0; k < nr; ++k) {
          V dw = V::load(reader[k].dw + j);
          Read::backward(V::broadcast(reader[k].dread + m), V::load(reader[k].w + j), found, dw, d);
          dw.store(reader[k].dw + j);
        }
        d.store(drow + j);
      });
      if (nw != 1) continue;
      writer[0].derase[m] = V::sum(derase);
      writer[0].dadd[m] = V::sum(dadd);
    }
  }

  // The same by a team: the sums over rows first, then those over columns, which also leave the memory's gradient. What
  // the erases before a writer left, and what came through those after it, are products of their own.
  RNN_MACHINE_FN void access_backward_by_team(const Reader* readers, int nr, const Writer* writers, int nw,
                                              const Real* memory, Real* dmemory) const {
    auto erased = [&](V x, int from, int to, int64_t m, int64_t j) RNN_LAMBDA {
      for (int k = from; k < to; ++k) x = Erase::forward(x, V::load(writers[k].w + j), V(writers[k].erase[m]));
      return x;
    };
    over_width(m_.width, [&](int64_t m) RNN_LAMBDA {
      for (int k = 0; k < nw; ++k) {
        V derase(0), dadd(0);
        over_lanes<Real>(rows_, [&](int64_t j) RNN_LAMBDA {
          V after = V::load(dmemory + m * rows_ + j), w = V::load(writers[k].w + j), dw(0);
          V d = erased(after, k + 1, nw, m, j), x = erased(V::load(memory + m * rows_ + j), 0, k, m, j);
          Add::backward(after, w, V(writers[k].add[m]), dw, dadd);
          Erase::backward(x, w, V(writers[k].erase[m]), d, dw, derase);
        });
        Real erase_sum = lanes_total(derase), add_sum = lanes_total(dadd);
        first_lane_does([&] {
          writers[k].derase[m] = erase_sum;
          writers[k].dadd[m] = add_sum;
        });
      }
    });
    over_padded<Real>(rows_, [&](int64_t j) RNN_LAMBDA {
      for (int64_t m = 0; m < m_.width; ++m) {
        V after = V::load(dmemory + m * rows_ + j), d = after, found = V::load(memory + m * rows_ + j), none(0);
        for (int k = nw - 1; k >= 0; --k) {
          V w = V::load(writers[k].w + j), dw = V::load(writers[k].dw + j);
          Add::backward(after, w, V(writers[k].add[m]), dw, none);
          Erase::backward(erased(found, 0, k, m, j), w, V(writers[k].erase[m]), d, dw, none);
          dw.store(writers[k].dw + j);
        }
        for (int k = 0; k < nr; ++k) {
          V dw = V::load(readers[k].dw + j);
          Read::backward(V(readers[k].dread[m]), V::load(readers[k].w + j), found, dw, d);
          dw.store(readers[k].dw + j);
        }
        d.store(dmemory + m * rows_ + j);
      }
    });
  }

  const Machine& m_;
  const Record& at_;
  const int64_t rows_;           // padded
  const Real* value_ = nullptr;  // of the record at hand
  Real *gated_, *shifted_;
  Writer* writers_;
  Reader* readers_;
  Real *dvalue_ = nullptr, *dshifted_ = nullptr, *ddot_ = nullptr, *along_ = nullptr, *chain_ = nullptr;
};
