// The words a cell may say. A cell is written once, as templates over a lane type V: one lane (scalar build, a CUDA
// thread) or a vector register of them. Besides `+ - * /` and V(constant) these words are all it knows.
#pragma once

#if defined(__CUDACC__)
#define RNN_FN __host__ __device__ __forceinline__
#else
#define RNN_FN inline __attribute__((always_inline))
#endif

namespace rnn {

// Defined in simd/math.h (at most 2 ULP, stated there) and by each lane type.
template <class V> RNN_FN V sigmoid(V x);
template <class V> RNN_FN V tanh(V x);

// Derivatives in terms of the activated value y.
template <class V> RNN_FN V dsigmoid(V y) { return y * (V(1) - y); }
template <class V> RNN_FN V dtanh(V y) { return V(1) - y * y; }

// max(x, 0) and its derivative applied to d; y is the activated value.
template <class V> RNN_FN V relu(V x) { return V::max(V(0), x); }
template <class V> RNN_FN V drelu(V y, V d) { return V::zero_unless_positive(y, d); }

// A tick is a list of stages. Before stage 0 stands the product of the recurrent matrix with h, before every later
// stage its product with the `operand` that the stage before left; each stage owns the gates it waits for.
template <int n> struct Stage {};

inline constexpr int kMaxStages = 4;
inline constexpr int kMaxStates = 4;

// What one hidden unit sees at one tick. A stage finds the `saved` entries of the stages before it; a backward stage
// all of them. The sweep loads and stores, and what a cell does not name costs nothing.
template <class Cell, class V> struct Unit {
  V x[Cell::kGates];      // input part of the pre-activation, with b_ih
  V u[Cell::kGates];      // recurrent part, with b_hh, of the gates of this stage
  V s[Cell::kStates];     // states before the tick; state 0 is the output h
  V next[Cell::kStates];  // states after it
  V saved[Cell::kSaved];  // what the backward needs: entry g < kGates belongs to the stage of gate g
  V operand;              // what the next stage's product reads

  V dnext[Cell::kStates];  // gradient of `next`, given to every stage
  V doperand;              // gradient of `operand`, given to the stage that made it
  V dx[Cell::kGates];      // gradient of `x`, and of `u` unless the gate is in kSplit
  V du[Cell::kGates];      // gradient of `u` for the gates in kSplit
  V ds[Cell::kStates];     // gradient of `s`, without what flows through the products: stage 0 leaves it
};

}  // namespace rnn
