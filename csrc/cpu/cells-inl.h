// The cells' stages as the sweep sees them.
// Included once per instruction set, inside rnn::RNN_ISA.

template <class Real> using ForwardFn = void (*)(const ForwardTile<Real>&);
template <class Real> using BackwardFn = void (*)(const BackwardTile<Real>&);

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
