// LSTM whose input gate is one minus its forget gate (CIFG of Greff et al. 2017).
#pragma once
#include "vocabulary.h"

namespace rnn {

struct CoupledLstm : CellDefaults {
  static constexpr const char* kName = "coupled_lstm";
  enum Gate { I, G, O, kGates };
  enum State { H, C, kStates };
  enum Saved { kSaved = kGates };
  static constexpr int kStageEnd[] = {kGates};
  static constexpr int kCell = C;

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    t.saved[I] = sigmoid(t.x[I] + t.u[I]);
    t.saved[G] = tanh(t.x[G] + t.u[G]);
    t.saved[O] = sigmoid(t.x[O] + t.u[O]);
    t.next[C] = t.clip(t.s[C] + t.saved[I] * (t.saved[G] - t.s[C]));
    t.next[H] = t.saved[O] * tanh(t.next[C]);
  }

  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    auto i = t.saved[I], g = t.saved[G], o = t.saved[O];
    auto y = tanh(t.next[C]);
    auto dc = t.dclip(t.next[C], t.dnext[C] + t.dnext[H] * o * dtanh(y));
    t.dx[I] = dc * (g - t.s[C]) * dsigmoid(i);
    t.dx[G] = dc * i * dtanh(g);
    t.dx[O] = t.dnext[H] * y * dsigmoid(o);
    t.ds[H] = 0;
    t.ds[C] = dc - dc * i;
  }
};

}  // namespace rnn
