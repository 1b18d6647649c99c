// The words a cell may say. A cell is written once, as templates over a lane type V: one lane (scalar build, a CUDA
// thread) or a vector register of them. Besides `+ - * /` and V(constant) these words are all it knows.
#pragma once

#if defined(__CUDACC__)
#define RNN_FN __host__ __device__ __forceinline__
#else
#define RNN_FN inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)
#define RNN_UNROLL(n) _Pragma("unroll")
#elif defined(__CUDACC__)
#define RNN_UNROLL(n)
#else
#define RNN_PRAGMA(words) _Pragma(#words)
#define RNN_UNROLL(n) RNN_PRAGMA(GCC unroll n)
#endif

namespace rnn {

// Defined in simd/math.h (at most 2.5 ULP, stated there) and by each lane type.
template <class V> RNN_FN V sigmoid(V x);
template <class V> RNN_FN V tanh(V x);
template <class V> RNN_FN V exp(V x);
template <class V> RNN_FN V log(V x);
template <class V> RNN_FN V softplus(V x);

// Derivatives in terms of the activated value y.
template <class V> RNN_FN V dsigmoid(V y) { return y * (V(1) - y); }
template <class V> RNN_FN V dtanh(V y) { return V(1) - y * y; }

// max(x, 0) and its derivative applied to d; y is the activated value.
template <class V> RNN_FN V relu(V x) { return V::max(V(0), x); }
template <class V> RNN_FN V drelu(V y, V d) { return V::zero_unless_positive(y, d); }

// The nonlinearities a caller may choose at run time, in the order of rnnkernels.options.SQUASHES: value and derivative
// from the activated value y, applied to d. kG1997 and kH1997: Hochreiter & Schmidhuber 1997, eqs 4 and 5.
enum Squash { kTanh, kRelu, kLogistic, kIdentity, kG1997, kH1997, kSquashes };
template <class V> RNN_FN V squash(int kind, V x) {
  switch (kind) {
    case kRelu:
      return relu(x);
    case kLogistic:
      return sigmoid(x);
    case kIdentity:
      return x;
    case kG1997:
      return V(2) * tanh(x * V(0.5));
    case kH1997:
      return tanh(x * V(0.5));
    default:
      return tanh(x);
  }
}
template <class V> RNN_FN V dsquash(int kind, V y, V d) {
  switch (kind) {
    case kRelu:
      return drelu(y, d);
    case kLogistic:
      return d * dsigmoid(y);
    case kIdentity:
      return d;
    case kG1997:
      return d * (V(1) - y * y * V(0.25));
    case kH1997:
      return d * dtanh(y) * V(0.5);
    default:
      return d * dtanh(y);
  }
}

// A tick is a list of stages. Before stage 0 stands the product of the recurrent matrix with the states that feed back,
// before every later stage the product of its own gates with the `operand` that the stage before left, if it has gates,
// and the normalisation of what the stage before left in `norm`.
template <int n> struct Stage {};

inline constexpr int kMaxStages = 4;
inline constexpr int kMaxStates = 5;
inline constexpr int kMaxGates = 8;
inline constexpr int kMaxNorms = 8;

// What a cell says of itself, and what holds where it says nothing. It names its gates, states and what it saves as
// enumerations whose last enumerator is their count, and kStageEnd, one past the last gate of each stage.
struct CellDefaults {
  static constexpr unsigned kSplit = 0;       // gates whose recurrent part has a gradient other than `x`'s
  static constexpr unsigned kShared = 0;      // gates that all cells of a memory block share
  static constexpr bool kProjection = false;  // h may be projected
  static constexpr int kFed = 1;              // so many states, from the first, feed back through the recurrent matrix
  static constexpr int kCell = 0;             // the state that cell_clip and zoneout_cell are for; 0: none
  static constexpr int kFirstInput = 0;       // gates before it take no input
  static constexpr int kFirstBiasIh = 0;      // gates before it have no b_ih
  static constexpr int kFirstBiasHh = 0;      // nor b_hh
  static constexpr int kStateStage = 0;       // the stage whose backward leaves ds
  static constexpr int kParameters = 0;       // parameters of each hidden unit, besides the weights
  RNN_FN static constexpr int parameter_stage(int) { return 0; }  // the stage whose backward leaves dp
  static constexpr bool kNormInput = false;  // W x is normalised over all gates before the cell sees it
  static constexpr int kNorms = 0;           // values of each unit that are normalised within a tick ...
  static constexpr int kGroups = 0;          // ... in so many groups, each over all units and its values together:
  static constexpr int kNormGroup[] = {0};   // the group of each value
  static constexpr int kGroupStage[] = {0};  // the stage that leaves a group; the one after finds it normalised
};
// Which stage leaves what, where it is not the stage of the gate: arrays kSavedStage (by saved entry), kInputStage and
// kRecurrentStage (dx and du, by gate).

// What one hidden unit sees at one tick. A stage finds the `saved` entries of the stages before it; a backward stage
// all of them. The sweep loads and stores, and what a cell does not name costs nothing.
template <class Cell, class V> struct Unit {
  using Lane = V;
  static constexpr int at_least_one(int n) { return n ? n : 1; }

  V x[Cell::kGates];                     // input part of the pre-activation, with b_ih
  V u[Cell::kGates];                     // recurrent part, with b_hh, of the gates of this stage
  V s[Cell::kStates];                    // states before the tick; state 0 is the output h
  V next[Cell::kStates];                 // states after it
  V saved[at_least_one(Cell::kSaved)];   // what the backward needs
  V operand;                             // what the next stage's product reads
  V p[at_least_one(Cell::kParameters)];  // the unit's parameters
  V norm[at_least_one(Cell::kNorms)];    // left to be normalised, or found so
  V raw[at_least_one(Cell::kNorms)];     // found beside it: as it was left (forward only)
  V limit;                               // bound of the cell state
  V full;                                // 1, or 0 where gradients are truncated
  V mask;                                // what h is multiplied with where it enters a product
  int squash[2];                         // the nonlinearities the caller chose

  V dnext[Cell::kStates];                 // gradient of `next`, given to every stage
  V doperand;                             // gradient of `operand`, given to the stage that made it
  V dx[Cell::kGates];                     // gradient of `x`, and of `u` unless the gate is in kSplit
  V du[Cell::kGates];                     // gradient of `u` for the gates in kSplit
  V ds[Cell::kStates];                    // gradient of `s`, without what flows through products
  V dp[at_least_one(Cell::kParameters)];  // gradient of `p`, what this stage adds: zero unless it says otherwise
  V dnorm[at_least_one(Cell::kNorms)];    // gradient of `norm`, as a stage found it in the forward, or left it there

  RNN_FN V clip(V c) const { return V::max(V(0) - limit, V::min(limit, c)); }
  RNN_FN V dclip(V c, V d) const { return V::zero_unless_positive(limit - V::abs(c), d); }  // c as it was clipped
};

}  // namespace rnn
