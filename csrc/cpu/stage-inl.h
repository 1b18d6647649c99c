// Applies one stage of a cell to a tile of rows by hidden units, from the products that lie in L1.
// Included once per instruction set, inside rnn::RNN_ISA.

// Scratch rows are padded to whole vectors; only what the caller of the package sees needs masks.
template <class Real> struct ForwardTile {
  int rows, units, width;
  int64_t hidden;
  const Real* u;  // [gate of the stage][kTileRows][kTileCols]
  const Real* x;  // [row][gate][width]
  int64_t ld_x;
  const Real* s[kMaxStates];  // scratch
  Real* next[kMaxStates];     // scratch
  int64_t ld_state[kMaxStates];
  Real* out;  // the caller's, or null: h' becomes the operand of a projection
  int64_t ld_out;
  Real* operand;  // scratch, or null where no product reads it
  int64_t ld_operand;
  Real* saved;         // [row][Saved][hidden], or null
  int64_t ld_saved;    // of this and of what is kept
  Real* kept_states;   // [row][state - 1][hidden], or null
  Real* kept_operand;  // [row][hidden], or null
};

template <class Real> struct BackwardTile {
  int rows, units;
  int64_t hidden;
  const Real* product;   // [kTileRows][kTileCols] gradient of h or of the stage's operand, or null: zero
  const Real* grad_out;  // the caller's, or null
  int64_t ld_out;
  bool projected;           // `product` is all of the gradient of h
  Real* carry[kMaxStates];  // scratch: gradients of the states after the tick, then of those before
  Real* dnext;              // scratch between stages
  int64_t ld_state[kMaxStates];
  const Real* s[kMaxStates];  // states before the tick, the caller's
  int64_t ld_s[kMaxStates];
  const Real* saved;
  const Real* next[kMaxStates];  // states after the tick but h, as they were kept
  int64_t ld_saved;
  Real* dx;  // [row][gate, then split gates][hidden]
  int64_t ld_dx;
  Real* du;  // scratch [row][gate][hidden]: the left side of the next products
  int64_t ld_du;
};

template <class Real> using ForwardFn = void (*)(const ForwardTile<Real>&);
template <class Real> using BackwardFn = void (*)(const BackwardTile<Real>&);

template <class Cell> inline constexpr int kStages = sizeof(Cell::kStageEnd) / sizeof(int);
template <class Cell, int S> inline constexpr int kFirstGate = Cell::kStageEnd[S > 0 ? S - 1 : 0] * (S > 0);
template <class Cell, int S> inline constexpr bool kIsLast = S == kStages<Cell> - 1;
template <class Cell, int S> inline constexpr bool kOwns(int entry) {
  return entry < Cell::kGates ? entry >= kFirstGate<Cell, S> && entry < Cell::kStageEnd[S] : kIsLast<Cell, S>;
}

// Calls f(row, column, width...) over a tile: no width where the vector is whole, else the number of lanes.
template <class Real, class F> RNN_FN void over_tile(int rows, int units, F&& f) {
  constexpr int L = kLanes<Real>;
  for (int i = 0; i < rows; ++i) {
    int j = 0;
    for (; j + L <= units; j += L) f(i, j);
    if (j < units) f(i, j, units - j);
  }
}

template <class Cell, class Real, int S> void forward_stage(const ForwardTile<Real>& a) {
  using V = Vector<Real>;
  constexpr int kFirst = kFirstGate<Cell, S>, kEnd = Cell::kStageEnd[S];
  over_tile<Real>(a.rows, a.units, [&](int i, int j, auto... width) RNN_LAMBDA {
    Unit<Cell, V> t;
    Real* saved = a.saved ? a.saved + i * a.ld_saved + j : nullptr;
#pragma GCC unroll 16
    for (int g = kFirst; g < kEnd; ++g) {
      t.x[g] = V::load(a.x + i * a.ld_x + g * a.width + j);
      t.u[g] = V::load(a.u + ((g - kFirst) * kTileRows + i) * kTileCols<Real> + j);
    }
#pragma GCC unroll 4
    for (int s = 1; s < Cell::kStates; ++s) t.s[s] = V::load(a.s[s] + i * a.ld_state[s] + j);
    t.s[0] = a.out ? V::load(a.s[0] + i * a.ld_state[0] + j) : V(0);  // a projected h has other units
#pragma GCC unroll 16
    for (int k = 0; k < kFirst; ++k) t.saved[k] = V::load(saved + k * a.hidden, width...);

    Cell::forward(Stage<S>{}, t);

    if constexpr (kIsLast<Cell, S>) {
#pragma GCC unroll 4
      for (int s = 1; s < Cell::kStates; ++s) {
        t.next[s].store(a.next[s] + i * a.ld_state[s] + j);
        if (a.kept_states) t.next[s].store(a.kept_states + i * a.ld_saved + (s - 1) * a.hidden + j, width...);
      }
      t.operand = t.next[0];  // of a projection
      if (a.out) {
        t.next[0].store(a.next[0] + i * a.ld_state[0] + j);
        t.next[0].store(a.out + i * a.ld_out + j, width...);
      }
    }
    if (a.operand) t.operand.store(a.operand + i * a.ld_operand + j);
    if (a.kept_operand) t.operand.store(a.kept_operand + i * a.ld_saved + j, width...);
    if (!a.saved) return;
#pragma GCC unroll 16
    for (int k = 0; k < Cell::kSaved; ++k)
      if (kOwns<Cell, S>(k)) t.saved[k].store(saved + k * a.hidden, width...);
  });
}

template <class Cell, class Real, int S> void backward_stage(const BackwardTile<Real>& a) {
  using V = Vector<Real>;
  constexpr int kFirst = kFirstGate<Cell, S>, kEnd = Cell::kStageEnd[S];
  over_tile<Real>(a.rows, a.units, [&](int i, int j, auto... width) RNN_LAMBDA {
    Unit<Cell, V> t;
    const Real* saved = a.saved + i * a.ld_saved + j;
    V product = a.product ? V::load(a.product + i * kTileCols<Real> + j) : V(0);
#pragma GCC unroll 4
    for (int s = 1; s < Cell::kStates; ++s) t.dnext[s] = V::load(a.carry[s] + i * a.ld_state[s] + j);
    if constexpr (kIsLast<Cell, S>) {
      t.dnext[0] = product;
      if (!a.projected) t.dnext[0] = t.dnext[0] + V::load(a.carry[0] + i * a.ld_state[0] + j);
      if (a.grad_out) t.dnext[0] = t.dnext[0] + V::load(a.grad_out + i * a.ld_out + j, width...);
      if constexpr (S > 0) t.dnext[0].store(a.dnext + i * a.ld_state[0] + j);
    } else {
      t.doperand = product;
      t.dnext[0] = V::load(a.dnext + i * a.ld_state[0] + j);
    }
#pragma GCC unroll 16
    for (int k = 0; k < Cell::kSaved; ++k) t.saved[k] = V::load(saved + k * a.hidden, width...);
#pragma GCC unroll 4
    for (int s = 1; s < Cell::kStates; ++s) t.s[s] = V::load(a.s[s] + i * a.ld_s[s] + j, width...);
    t.s[0] = a.projected ? V(0) : V::load(a.s[0] + i * a.ld_s[0] + j, width...);
#pragma GCC unroll 4
    for (int s = 1; s < Cell::kStates; ++s) t.next[s] = V::load(a.next[s] + i * a.ld_saved + j, width...);

    Cell::backward(Stage<S>{}, t);

    int split = 0;
#pragma GCC unroll 16
    for (int g = 0; g < kEnd; ++g) {
      bool splits = Cell::kSplit >> g & 1u;
      if (g >= kFirst) {
        t.dx[g].store(a.dx + i * a.ld_dx + g * a.hidden + j, width...);
        if (splits) t.du[g].store(a.dx + i * a.ld_dx + (Cell::kGates + split) * a.hidden + j, width...);
        (splits ? t.du[g] : t.dx[g]).store(a.du + i * a.ld_du + g * a.hidden + j, width...);
      }
      split += splits;
    }
    if constexpr (S == 0) {
#pragma GCC unroll 4
      for (int s = 0; s < Cell::kStates; ++s)
        if (s > 0 || !a.projected) t.ds[s].store(a.carry[s] + i * a.ld_state[s] + j);
    }
  });
}

// A cell as the sweep sees it.
template <class Real> struct CellStages {
  ForwardFn<Real> forward[kMaxStages];
  BackwardFn<Real> backward[kMaxStages];
};

template <class Cell, class Real, int... S> constexpr CellStages<Real> stages_of(Indices<S...>) {
  return {{&forward_stage<Cell, Real, S>...}, {&backward_stage<Cell, Real, S>...}};
}

#define RNN_STAGES(Cell) stages_of<Cell, Real>(MakeIndices<kStages<Cell>>()),
template <class Real> inline constexpr CellStages<Real> kCells[] = {RNN_CELLS(RNN_STAGES)};
#undef RNN_STAGES
