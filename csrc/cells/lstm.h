// LSTM as torch.nn.LSTM computes it (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000).
#pragma once
#include "vocabulary.h"

namespace rnn {

struct Lstm : CellDefaults {
  static constexpr const char* kName = "lstm";
  enum Gate { I, F, G, O, kGates };
  enum State { H, C, kStates };
  enum Saved { kSaved = kGates };  // the activated gates; tanh(c') is cheap to compute again
  static constexpr int kStageEnd[] = {kGates};
  static constexpr bool kProjection = true;
  static constexpr int kCell = C;

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    t.saved[I] = sigmoid(t.x[I] + t.u[I]);
    t.saved[F] = sigmoid(t.x[F] + t.u[F]);
    t.saved[G] = tanh(t.x[G] + t.u[G]);
    t.saved[O] = sigmoid(t.x[O] + t.u[O]);
    t.next[C] = t.clip(t.saved[F] * t.s[C] + t.saved[I] * t.saved[G]);
    t.next[H] = t.saved[O] * tanh(t.next[C]);
  }

  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    auto i = t.saved[I], f = t.saved[F], g = t.saved[G], o = t.saved[O];
    auto y = tanh(t.next[C]);
    auto dc = t.dclip(t.next[C], t.dnext[C] + t.dnext[H] * o * dtanh(y));
    t.dx[I] = dc * g * dsigmoid(i);
    t.dx[F] = dc * t.s[C] * dsigmoid(f);
    t.dx[G] = dc * i * dtanh(g);
    t.dx[O] = t.dnext[H] * y * dsigmoid(o);
    t.ds[H] = 0;
    t.ds[C] = dc * f;
  }
};

}  // namespace rnn
