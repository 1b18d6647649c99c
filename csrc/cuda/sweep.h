// What the kernels of a layer work on, and the table of them, in plain structs: everything points to the card's memory.
#pragma once
#include "../walk/call.h"

namespace rnn::cuda {

// One call and its scratch. Rows of the batch are walked from the longest to the shortest; what is of a tick has a row
// for each, what is of a frame a row for each frame of the call. Null where a call has no use for it.
template <class Real> struct Step {
  Facts f;
  Call<Real> c;
  int fed_states;

  // forward
  Real* h;       // (B, max(F, P)) the states that feed back side by side, or the h that a projection makes
  Real* masked;  // the same as products read it, where recurrent dropout is on or one launch walks all ticks
  int64_t ld_masked;
  Real* state[kMaxStates];  // (B,H) the others
  Real* product;            // (B, gates H) or, backward, (B, fed numbers): what the product before a run of stages left
  Real* projected;          // (frames, gates H) W x
  Real* operand;            // (B,H) what the next product reads
  Real* norm;               // (B, norms, H)
  Real* moments;            // (B, groups, 3)
  Real* saved;              // (B, saved, H) of one tick, where the caller keeps none

  // backward
  Real* carry[kMaxStates];  // (B,P) (B,H) gradients of the states after the tick, then of those before
  Real* dnext;              // (B,H) between stages
  Real* dh;                 // (frames, P) with a projection: gradient of h
  Real* dx;                 // (frames, gates H)
  Real* du;                 // (frames, gates H): dx itself, unless some gate is split
  Real* dnorm;              // (B, norms, H)
  Real* sums;               // (B, parameters, 2, max(H, P)) a sum and what rounding has taken from it
  Real* reset_sums;         // (B, states, 2, max(H, P))
  const Real* zeros;        // max(H, P)

  RNN_FN int64_t units() const { return c.hidden < c.outputs ? c.outputs : c.hidden; }
  RNN_FN int64_t ld_h() const { return c.fed < c.outputs ? c.outputs : c.fed; }
  RNN_FN bool in_h(int s) const { return s == 0 || s < fed_states; }
  RNN_FN Real* state_row(int s, int64_t b) const {
    return in_h(s) ? h + b * ld_h() + s * c.hidden : state[s] + b * c.hidden;
  }
};

// States that feed back through the recurrent matrix: with a projection the projected h alone.
template <class Real> int fed_states(const Call<Real>& c) {
  return c.w_hr ? 1 : c.hidden ? static_cast<int>(c.fed / c.hidden) : 0;
}

using Stream = void*;  // a cudaStream_t

// Between two products stands a run of stages, in one kernel, which is known by its first stage (backward: by its
// last). `next` is the tick walked after t, or -1; so many rows take part: of t, or of a tick that rows begin with.
template <class Real> struct CellKernels {
  void (*forward[kMaxStages])(const Step<Real>&, int64_t t, int64_t next, int64_t rows, Stream);
  void (*backward[kMaxStages])(const Step<Real>&, int64_t t, int64_t rows, int64_t product_rows, Stream);
};

template <class Real> struct Kernels {
  const CellKernels<Real>& (*cell)(int cell);
  void (*enter)(const Step<Real>&, Stream);  // copies the first states, and prepares them for the first tick
  // With a projection: h, which lies where the product left it, becomes the caller's, and is prepared for tick `next`.
  void (*deliver)(const Step<Real>&, int64_t t, int64_t next, int64_t rows, Stream);
  void (*leave)(const Step<Real>&, Stream);
  void (*normalise_inputs)(const Step<Real>&, int64_t frames, Stream);

  void (*enter_backward)(const Step<Real>&, Stream);
  void (*arrive)(const Step<Real>&, int64_t t, int64_t rows, int64_t product_rows, Stream);  // h's under a projection
  void (*finish)(const Step<Real>&, bool has_product, Stream);  // gradients of the initial states
  void (*reduce)(const Step<Real>&, Stream);                    // and of parameters and reset states
  void (*unnormalise_inputs)(const Step<Real>&, int64_t frames, Stream);

  // Frames as products read them: the inputs (frames, I) and fed states (frames, F), and the way back for gradients.
  void (*gather_inputs)(const Step<Real>&, int64_t frames, Real* to, Stream);
  void (*gather_fed)(const Step<Real>&, int64_t frames, Real* to, Stream);
  void (*scatter_inputs)(const Step<Real>&, int64_t frames, const Real* from, Stream);
  // A drawn mask of so many rows of n numbers, all of tick 0.
  void (*draw)(const Step<Real>&, MaskKind, int64_t rows, int64_t n, Real* to, Stream);
};

template <class Real> const Kernels<Real>& kernels();
extern template const Kernels<float>& kernels();
extern template const Kernels<double>& kernels();

}  // namespace rnn::cuda
