// Applies one stage of a cell to a tile of rows by hidden units, from the products that lie beside it.
// Included once per machine, inside its namespace, where Vector<Real>, kTileRows, kTileCols<Real>, over_tile, MaskRows,
// RowFlags, kKeepsSplit and RNN_MACHINE_FN say what a tile is: on the CPU a few rows by a few vectors, in a CUDA thread
// one unit of one row.

// What a cell says by leaving it out.
template <class Cell> inline constexpr int kStages = sizeof(Cell::kStageEnd) / sizeof(int);
template <class Cell, int S> inline constexpr int kFirstGate = Cell::kStageEnd[S > 0 ? S - 1 : 0] * (S > 0);
template <class Cell, int S> inline constexpr bool kIsLast = S == kStages<Cell> - 1;
// Which stage leaves what. A table of its own, since device code cannot index a cell's.
struct StageOf {
  int saved[2 * kMaxGates], input[kMaxGates], recurrent[kMaxGates], norm[kMaxNorms], group[kMaxNorms];
};
template <class Cell> constexpr StageOf stage_of() {
  StageOf of{};
  static_assert(Cell::kSaved <= 2 * kMaxGates);
  for (int g = 0, stage = 0; g < Cell::kGates; ++g) {
    while (g >= Cell::kStageEnd[stage]) ++stage;
    of.saved[g] = of.input[g] = of.recurrent[g] = stage;
    if constexpr (requires { Cell::kInputStage; }) of.input[g] = Cell::kInputStage[g];
    if constexpr (requires { Cell::kRecurrentStage; }) of.recurrent[g] = Cell::kRecurrentStage[g];
  }
  for (int k = 0; k < Cell::kSaved; ++k) {
    if (k >= Cell::kGates) of.saved[k] = kStages<Cell> - 1;
    if constexpr (requires { Cell::kSavedStage; }) of.saved[k] = Cell::kSavedStage[k];
  }
  for (int k = 0; k < Cell::kNorms; ++k) {
    of.group[k] = Cell::kNormGroup[k];
    of.norm[k] = Cell::kGroupStage[Cell::kNormGroup[k]];
  }
  return of;
}
// Whether stage S may leave an operand: of the product before the next stage, or of a projection.
template <class Cell, int S> RNN_FN constexpr bool may_leave_operand() {
  if constexpr (kIsLast<Cell, S>)
    return Cell::kProjection;
  else
    return Cell::kStageEnd[S + 1] > Cell::kStageEnd[S];
}

// What is the same for every unit of a call.
template <class Real> struct Knobs {
  Real limit, full;  // bound of the cell state; 0 where gradients are truncated, else 1
  int squash[2];
  template <class Cell, class V> RNN_FN void set(Unit<Cell, V>& t) const {
    t.limit = V(limit);
    t.full = V(full);
    t.squash[0] = squash[0];
    t.squash[1] = squash[1];
  }
};

template <class Real> RNN_FN Knobs<Real> knobs_of(const Call<Real>& c) {
  return {c.cell_clip, Real(c.truncated ? 0 : 1), {c.squash[0], c.squash[1]}};
}

// The caller's rows, which may lie anywhere. Filled in only where they are `given`: a tile is made thousands of times.
template <class Real> struct CallersRows {
  bool given;
  Real* at[kTileRows];
  RNN_FN CallersRows() : given(false) {}
};

// Rows b, b + 1, ... at tick t of a tensor of the caller's, (T,B,n) by place, from number `unit` on.
template <class T>
RNN_FN void set_rows(CallersRows<T>& to, const Timeline& time, T* base, int64_t n, int64_t t, int64_t b, int rows,
                     int64_t unit) {
  to.given = base;
  RNN_UNROLL(5)
  for (int i = 0; i < rows && base; ++i) to.at[i] = base + time.place(t, b + i) * n + unit;
}

// Scratch rows are padded to whole vectors; only what the caller of the package sees, or what others may own the end
// of, needs masks.
template <class Real> struct ForwardTile {
  Knobs<Real> knobs;
  int rows, units, width;
  int64_t hidden;
  const Real* u;  // [gate of the stage][kTileRows][kTileCols]
  const Real* x;  // [row][gate that takes input][width]
  int64_t ld_x;
  const Real* parameters;  // [parameter][ld_parameters]
  int64_t ld_parameters;
  const Real* s[kMaxStates];  // scratch
  Real* next[kMaxStates];     // scratch
  int64_t ld_state[kMaxStates];
  bool several_fed;       // fed states lie side by side
  bool reads_h;           // or h' becomes the operand of a projection, and h has other units
  CallersRows<Real> out;  // the caller's, or null
  CallersRows<Real> all[kMaxStates];
  MaskRows<Real> zone_h, zone_cell, drop;  // masks [row][ld_mask], or null; drop: of h and operands
  int64_t ld_mask;
  Real* operand;  // scratch, or null where no product reads it
  int64_t ld_operand;
  Real* saved;         // [row][Saved][hidden], or null
  int64_t ld_saved;    // of this and of what is kept
  Real* kept_states;   // [row][state - 1][hidden], or null
  Real* kept_operand;  // [row][hidden], or null
  Real* kept_raw;
  Real* kept_norms;
  Real* norm;  // scratch [row][norm][ld_unit]
  int64_t ld_norm, ld_unit;
  const Real* moments;  // [row][group][2]: mean and 1 / deviation
};

template <class Real> struct BackwardTile {
  Knobs<Real> knobs;
  int rows, units;
  int64_t hidden;
  const Real* product;  // [fed state][kTileRows][kTileCols] gradient of the fed states, or of the stage's operand ...
  int fed;              // ... so many of them; none: zero
  const Real* parameters;
  int64_t ld_parameters;
  CallersRows<const Real> grad_out, grad_all[kMaxStates];
  bool projected;  // `product` is all of the gradient of h
  MaskRows<Real> zone_h, zone_cell;
  MaskRows<Real> drop_fed;  // mask of h in the product of the tick after
  MaskRows<Real> drop;      // mask of this tick's h and operands
  int64_t ld_mask;
  RowFlags clips;  // rows whose gradient of h is clamped to `clip` ...
  RowFlags cuts;   // ... and goes to the reset states; or null
  Real clip;
  Real *sums, *reset_sums;  // this thread's [parameter] and [state][sum, compensation][ld_sums]
  int64_t ld_sums;
  Real* carry[kMaxStates];  // scratch: gradients of the states after the tick, then of those before
  Real* dnext;              // scratch between stages
  int64_t ld_state[kMaxStates];
  CallersRows<const Real> s[kMaxStates];  // states before the tick
  const Real* saved;
  const Real* next[kMaxStates];  // states after the tick but h, as they were kept
  const Real *norms, *inputs;    // normalised values, as they were kept
  int64_t ld_saved;
  Real* dx;  // [row][gate, then split gates if kKeepsSplit][hidden]
  int64_t ld_dx;
  Real* du;  // scratch [row][gate][hidden]: the left side of the next products
  int64_t ld_du;
  Real* dnorm;  // scratch [row][norm][ld_unit]: gradients of the normalised values
  int64_t ld_norm, ld_unit;
  const Real* moments;  // [row][group][3]: 1 / deviation, mean gradient, mean of gradient times value
};

// What of a stage's tile a cell decides.
struct StageFacts {
  int states, cell, operand;  // operand: its row among what is kept
  bool last, feeds;           // feeds: a product of the cell reads the operand
  RNN_FN constexpr StageFacts(const Facts& f, int stage)
      : states(f.states),
        cell(f.cell),
        operand(Kept(f, false, false).operand(f, stage + 1)),
        last(stage + 1 == f.stages),
        feeds(!last && f.has_product(stage + 1)) {}
};
template <class Real> RNN_FN bool leaves_operand(const StageFacts& f, const Call<Real>& c) {
  return f.last ? c.w_hr != nullptr : f.feeds;
}

// What of a tile lies with the caller, or is kept: that of `rows` rows from b on, at tick t, from hidden unit `unit`
// on.
template <class Real>
RNN_FN void place_tile(ForwardTile<Real>& a, const StageFacts& f, const Call<Real>& c, const Kept& kept, int64_t t,
                       int64_t b, int rows, int64_t unit) {
  const bool projects = c.w_hr != nullptr;
  a.knobs = knobs_of(c);
  a.rows = rows;
  a.hidden = c.hidden;
  a.reads_h = !projects;
  if (f.last && !projects) set_rows(a.out, c.time, c.out, c.outputs, t, b, rows, unit);
  RNN_UNROLL(5)
  for (int s = 1; s < f.states; ++s)
    if (f.last) set_rows(a.all[s], c.time, c.all[s], c.hidden, t, b, rows, unit);
  if (!c.saved) return;
  a.ld_saved = c.saved_numbers;
  a.saved = c.saved + (c.time.frame(t) + b) * c.saved_numbers + unit;
  a.kept_states = a.saved + kept.states * c.hidden;
  if (c.masks[kZoneCell].on()) a.kept_raw = a.saved + kept.raw_cell * c.hidden;
  a.kept_norms = a.saved + kept.norms * c.hidden;
  if (leaves_operand(f, c)) a.kept_operand = a.saved + (f.last ? kept.projected : f.operand) * c.hidden;
}

template <class Real>
RNN_FN void place_tile(BackwardTile<Real>& a, const StageFacts& f, const Call<Real>& c, const Kept& kept, int64_t t,
                       int64_t b, int rows, int64_t unit) {
  a.knobs = knobs_of(c);
  a.rows = rows;
  a.hidden = c.hidden;
  a.clip = c.gradient_clip;
  a.projected = c.w_hr != nullptr;
  a.ld_saved = c.saved_numbers;
  a.saved = c.kept_at(t, b, 0) + unit;
  a.norms = a.saved + kept.norms * c.hidden;
  a.inputs = a.saved + kept.inputs * c.hidden;
  RNN_UNROLL(5)
  for (int s = 1; s < f.states; ++s) {
    set_rows(a.grad_all[s], c.time, c.grad_all[s], c.hidden, t, b, rows, unit);
    const bool raw = s == f.cell && c.masks[kZoneCell].on();
    a.next[s] = a.saved + (raw ? kept.raw_cell : kept.state(s)) * c.hidden;
  }
  if (f.last && !a.projected) set_rows(a.grad_out, c.time, c.grad_out, c.outputs, t, b, rows, unit);
}

// Adds v to a running sum that carries what rounding lost (Kahan): thousands of frames go into one number.
template <class V> RNN_FN void add_to(typename V::Real* sum, int64_t ld, V v) {
  V before = V::load(sum), y = v - V::load(sum + ld), after = before + y;
  ((after - before) - y).store(sum + ld);
  after.store(sum);
}

template <class Real> RNN_FN void add_one(Real* sum, int64_t ld, Real v) {
  Real y = v - sum[ld], after = sum[0] + y;
  sum[ld] = (after - sum[0]) - y;
  sum[0] = after;
}

// The gradient of state s that comes from the tick after, clamped; where the states were reset in between it belongs to
// the reset state.
template <class Real, class V> RNN_FN V arrived(const BackwardTile<Real>& a, V d, int s, Real* sums, int i, int j) {
  if (s == 0 && a.clips && a.clips[i]) d = V::max(V(-a.clip), V::min(V(a.clip), d));
  if (!a.cuts || !a.cuts[i]) return d;
  if (sums) add_to(sums + 2 * s * a.ld_sums + j, a.ld_sums, d);
  return V(0);
}

// Exactly one of the two where z is 1 or 0.
template <class V> RNN_FN V blend(V z, V kept, V fresh) { return z * kept + (V(1) - z) * fresh; }

template <class Cell, class Real, int S> RNN_MACHINE_FN void forward_stage(const ForwardTile<Real>& a) {
  using V = Vector<Real>;
  constexpr int kFirst = kFirstGate<Cell, S>, kEnd = Cell::kStageEnd[S];
  over_tile<Real>(a.rows, a.units, [&](int i, int j, auto... width) RNN_LAMBDA {
    constexpr StageOf of = stage_of<Cell>();
    Unit<Cell, V> t;
    a.knobs.set(t);
    t.mask = a.drop ? load_mask<V>(a.drop, i * a.ld_mask + j) : V(1);
    Real* saved = a.saved ? a.saved + i * a.ld_saved + j : nullptr;
    RNN_UNROLL(16)
    for (int g = 0; g < Cell::kGates; ++g)
      t.x[g] = g < Cell::kFirstInput ? V(0) : V::load(a.x + i * a.ld_x + (g - Cell::kFirstInput) * a.width + j);
    RNN_UNROLL(16)
    for (int g = kFirst; g < kEnd; ++g) t.u[g] = V::load(a.u + ((g - kFirst) * kTileRows + i) * kTileCols<Real> + j);
    RNN_UNROLL(5)
    for (int s = 1; s < Cell::kStates; ++s) t.s[s] = V::load(a.s[s] + i * a.ld_state[s] + j);
    t.s[0] = a.reads_h ? V::load(a.s[0] + i * a.ld_state[0] + j) : V(0);
    RNN_UNROLL(16)
    for (int k = 0; k < Cell::kSaved; ++k)
      if (of.saved[k] < S) t.saved[k] = V::load(saved + k * a.hidden, width...);
    RNN_UNROLL(16)
    for (int k = 0; k < Cell::kParameters; ++k) t.p[k] = V::load(a.parameters + k * a.ld_parameters + j);
    RNN_UNROLL(8)
    for (int k = 0; k < Cell::kNorms; ++k)
      if (of.norm[k] == S - 1) {
        const Real* m = a.moments + (i * Cell::kGroups + of.group[k]) * 2;
        t.raw[k] = V::load(a.norm + i * a.ld_norm + k * a.ld_unit + j);
        t.norm[k] = (t.raw[k] - V(m[0])) * V(m[1]);
        if (a.kept_norms) t.norm[k].store(a.kept_norms + i * a.ld_saved + k * a.hidden + j, width...);
      }

    Cell::forward(Stage<S>{}, t);

    RNN_UNROLL(8)
    for (int k = 0; k < Cell::kNorms; ++k)
      if (of.norm[k] == S) t.norm[k].store(a.norm + i * a.ld_norm + k * a.ld_unit + j);
    if constexpr (kIsLast<Cell, S>) {
      if constexpr (Cell::kCell > 0)
        if (a.zone_cell) {
          constexpr int C = Cell::kCell;
          if (a.kept_raw) t.next[C].store(a.kept_raw + i * a.ld_saved + j, width...);
          t.next[C] = blend(load_mask<V>(a.zone_cell, i * a.ld_mask + j), t.s[C], t.next[C]);
        }
      if (a.zone_h) t.next[0] = blend(load_mask<V>(a.zone_h, i * a.ld_mask + j), t.s[0], t.next[0]);
      RNN_UNROLL(5)
      for (int s = 1; s < Cell::kStates; ++s) {
        if (s < Cell::kFed && a.several_fed)
          t.next[s].store(a.next[s] + i * a.ld_state[s] + j, width...);
        else
          t.next[s].store(a.next[s] + i * a.ld_state[s] + j);
        if (a.kept_states) t.next[s].store(a.kept_states + i * a.ld_saved + (s - 1) * a.hidden + j, width...);
        if (a.all[s].given) t.next[s].store(a.all[s].at[i] + j, width...);
      }
      if constexpr (Cell::kProjection) t.operand = t.next[0];
      if (a.reads_h) {
        if (Cell::kFed > 1 && a.several_fed)
          t.next[0].store(a.next[0] + i * a.ld_state[0] + j, width...);
        else
          t.next[0].store(a.next[0] + i * a.ld_state[0] + j);
        if (a.out.given) t.next[0].store(a.out.at[i] + j, width...);
      }
    }
    if (may_leave_operand<Cell, S>() && a.operand) {
      if (a.drop) t.operand = t.operand * t.mask;
      t.operand.store(a.operand + i * a.ld_operand + j);
      if (a.kept_operand) t.operand.store(a.kept_operand + i * a.ld_saved + j, width...);
    }
    if (!a.saved) return;
    RNN_UNROLL(16)
    for (int k = 0; k < Cell::kSaved; ++k)
      if (of.saved[k] == S) t.saved[k].store(saved + k * a.hidden, width...);
  });
}

template <class Cell, class Real, int S> RNN_MACHINE_FN void backward_stage(const BackwardTile<Real>& a) {
  using V = Vector<Real>;
  constexpr int C = Cell::kCell;
  over_tile<Real>(a.rows, a.units, [&](int i, int j, auto... width) RNN_LAMBDA {
    constexpr StageOf of = stage_of<Cell>();
    Unit<Cell, V> t;
    a.knobs.set(t);
    t.mask = a.drop ? load_mask<V>(a.drop, i * a.ld_mask + j) : V(1);
    const Real* saved = a.saved + i * a.ld_saved + j;
    auto product = [&](int f) RNN_LAMBDA {
      return a.fed ? V::load(a.product + (f * kTileRows + i) * kTileCols<Real> + j) : V(0);
    };
    auto zone = [&](MaskRows<Real> mask) RNN_LAMBDA { return load_mask<V>(mask, i * a.ld_mask + j); };
    V d[Cell::kStates];  // of the states after the tick
    if constexpr (kIsLast<Cell, S>) {
      d[0] = product(0);
      if (a.drop_fed) d[0] = d[0] * load_mask<V>(a.drop_fed, i * a.ld_mask + j);
      if (!a.projected)
        d[0] = arrived<Real>(a, d[0] + V::load(a.carry[0] + i * a.ld_state[0] + j), 0, a.reset_sums, i, j);
      if (a.grad_out.given) d[0] = d[0] + V::load(a.grad_out.at[i] + j, width...);
      if constexpr (S > 0) d[0].store(a.dnext + i * a.ld_state[0] + j);
    } else {
      t.doperand = product(0);
      if (a.drop) t.doperand = t.doperand * t.mask;
      d[0] = V::load(a.dnext + i * a.ld_state[0] + j);
    }
    RNN_UNROLL(5)
    for (int s = 1; s < Cell::kStates; ++s) {
      d[s] = V::load(a.carry[s] + i * a.ld_state[s] + j);
      if (kIsLast<Cell, S> && s < Cell::kFed && s < a.fed) d[s] = d[s] + product(s);
      d[s] = arrived<Real>(a, d[s], s, kIsLast<Cell, S> ? a.reset_sums : nullptr, i, j);
      if (a.grad_all[s].given) d[s] = d[s] + V::load(a.grad_all[s].at[i] + j, width...);
      t.dnext[s] = d[s];
    }
    t.dnext[0] = a.zone_h ? d[0] - d[0] * zone(a.zone_h) : d[0];
    if constexpr (C > 0)
      if (a.zone_cell) t.dnext[C] = d[C] - d[C] * zone(a.zone_cell);
    RNN_UNROLL(16)
    for (int k = 0; k < Cell::kSaved; ++k) t.saved[k] = V::load(saved + k * a.hidden, width...);
    RNN_UNROLL(5)
    for (int s = 1; s < Cell::kStates; ++s) t.s[s] = V::load(a.s[s].at[i] + j, width...);
    t.s[0] = a.projected ? V(0) : V::load(a.s[0].at[i] + j, width...);
    RNN_UNROLL(5)
    for (int s = 1; s < Cell::kStates; ++s) t.next[s] = V::load(a.next[s] + i * a.ld_saved + j, width...);
    RNN_UNROLL(16)
    for (int k = 0; k < Cell::kParameters; ++k) t.p[k] = V::load(a.parameters + k * a.ld_parameters + j);
    RNN_UNROLL(8)
    for (int k = 0; k < Cell::kNorms; ++k) {
      t.norm[k] = V::load(a.norms + i * a.ld_saved + k * a.hidden + j, width...);
      if (of.norm[k] == S) {
        const Real* m = a.moments + (i * Cell::kGroups + of.group[k]) * 3;
        V dn = V::load(a.dnorm + i * a.ld_norm + k * a.ld_unit + j);
        t.dnorm[k] = (dn - V(m[1]) - t.norm[k] * V(m[2])) * V(m[0]);
      }
    }
    if constexpr (Cell::kNormInput) {
      RNN_UNROLL(16)
      for (int g = 0; g < Cell::kGates; ++g) t.x[g] = V::load(a.inputs + i * a.ld_saved + g * a.hidden + j, width...);
    }

    Cell::backward(Stage<S>{}, t);

    RNN_UNROLL(8)
    for (int k = 0; k < Cell::kNorms; ++k)
      if (of.norm[k] == S - 1) t.dnorm[k].store(a.dnorm + i * a.ld_norm + k * a.ld_unit + j);
    if constexpr (Cell::kParameters > 0)
      if (a.sums) {
        RNN_UNROLL(16)
        for (int k = 0; k < Cell::kParameters; ++k)
          if (Cell::parameter_stage(k) == S) add_to(a.sums + 2 * k * a.ld_sums + j, a.ld_sums, t.dp[k]);
      }
    int split = 0;
    RNN_UNROLL(16)
    for (int g = 0; g < Cell::kGates; ++g) {
      bool splits = Cell::kSplit >> g & 1u;
      if (of.input[g] == S) t.dx[g].store(a.dx + i * a.ld_dx + g * a.hidden + j, width...);
      if (of.recurrent[g] == S) {
        if (splits && kKeepsSplit) t.du[g].store(a.dx + i * a.ld_dx + (Cell::kGates + split) * a.hidden + j, width...);
        (splits ? t.du[g] : t.dx[g]).store(a.du + i * a.ld_du + g * a.hidden + j, width...);
      }
      split += splits;
    }
    if constexpr (S == Cell::kStateStage) {
      if (a.zone_h) t.ds[0] = t.ds[0] + d[0] * zone(a.zone_h);
      if constexpr (C > 0)
        if (a.zone_cell) t.ds[C] = t.ds[C] + d[C] * zone(a.zone_cell);
      RNN_UNROLL(5)
      for (int s = 0; s < Cell::kStates; ++s)
        if (s > 0 || !a.projected) t.ds[s].store(a.carry[s] + i * a.ld_state[s] + j);
    }
  });
}
