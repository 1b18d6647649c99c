// Minimal gated unit (Zhou et al. 2016): one gate, applied to h before the candidate's product.
#pragma once
#include "vocabulary.h"

namespace rnn {

struct MinimalGru : CellDefaults {
  static constexpr const char* kName = "minimal_gru";
  enum Gate { F, N, kGates };
  enum State { H, kStates };
  enum Saved { kSaved = kGates };
  static constexpr int kStageEnd[] = {F + 1, N + 1};

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    t.saved[F] = sigmoid(t.x[F] + t.u[F]);
    t.operand = t.saved[F] * t.s[H];
  }
  template <class U> RNN_FN static void forward(Stage<1>, U& t) {
    t.saved[N] = tanh(t.x[N] + t.u[N]);
    t.next[H] = t.s[H] + t.saved[F] * (t.saved[N] - t.s[H]);
  }

  template <class U> RNN_FN static void backward(Stage<1>, U& t) {
    t.dx[N] = t.dnext[H] * t.saved[F] * dtanh(t.saved[N]);
  }
  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    auto f = t.saved[F];
    t.dx[F] = (t.dnext[H] * (t.saved[N] - t.s[H]) + t.doperand * t.s[H]) * dsigmoid(f);
    t.ds[H] = t.dnext[H] - t.dnext[H] * f + t.doperand * f;
  }
};

}  // namespace rnn
