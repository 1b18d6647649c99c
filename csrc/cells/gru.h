// GRU as torch.nn.GRU computes it (Cho et al. 2014 in cuDNN's form): the reset gate after the recurrent product.
#pragma once
#include "vocabulary.h"

namespace rnn {

struct Gru : CellDefaults {
  static constexpr const char* kName = "gru";
  enum Gate { R, Z, N, kGates };
  enum State { H, kStates };
  enum Saved { UN = kGates, kSaved };  // the activated gates, and the recurrent part of the candidate
  static constexpr int kStageEnd[] = {kGates};
  static constexpr unsigned kSplit = 1u << N;

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    t.saved[R] = sigmoid(t.x[R] + t.u[R]);
    t.saved[Z] = sigmoid(t.x[Z] + t.u[Z]);
    t.saved[UN] = t.u[N];
    t.saved[N] = tanh(t.x[N] + t.saved[R] * t.u[N]);
    t.next[H] = t.saved[N] + t.saved[Z] * (t.s[H] - t.saved[N]);
  }

  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    auto r = t.saved[R], z = t.saved[Z], n = t.saved[N], d = t.dnext[H];
    t.dx[N] = (d - d * z) * dtanh(n);
    t.du[N] = t.dx[N] * r;
    t.dx[R] = t.dx[N] * t.saved[UN] * dsigmoid(r);
    t.dx[Z] = d * (t.s[H] - n) * dsigmoid(z);
    t.ds[H] = d * z;
  }
};

}  // namespace rnn
