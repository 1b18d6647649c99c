// LSTM with peepholes (Gers, Schraudolph & Schmidhuber 2002): gates see the cell state, the output gate the new one.
#pragma once
#include "vocabulary.h"

namespace rnn {

struct PeepholeLstm : CellDefaults {
  static constexpr const char* kName = "peephole_lstm";
  enum Gate { I, F, G, O, kGates };
  enum State { H, C, kStates };
  enum Saved { kSaved = kGates };
  enum Parameter { PI, PF, PO, kParameters };
  static constexpr int kStageEnd[] = {kGates};
  static constexpr int kCell = C;

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    t.saved[I] = sigmoid(t.x[I] + t.u[I] + t.p[PI] * t.s[C]);
    t.saved[F] = sigmoid(t.x[F] + t.u[F] + t.p[PF] * t.s[C]);
    t.saved[G] = squash(t.squash[0], t.x[G] + t.u[G]);
    t.next[C] = t.clip(t.saved[F] * t.s[C] + t.saved[I] * t.saved[G]);
    t.saved[O] = sigmoid(t.x[O] + t.u[O] + t.p[PO] * t.next[C]);
    t.next[H] = t.saved[O] * squash(t.squash[1], t.next[C]);
  }

  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    auto i = t.saved[I], f = t.saved[F], g = t.saved[G], o = t.saved[O];
    auto y = squash(t.squash[1], t.next[C]);
    t.dx[O] = t.dnext[H] * y * dsigmoid(o);
    auto dc = t.dnext[C] + dsquash(t.squash[1], y, t.dnext[H] * o) + t.full * t.p[PO] * t.dx[O];
    dc = t.dclip(t.next[C], dc);
    t.dx[I] = dc * g * dsigmoid(i);
    t.dx[F] = dc * t.s[C] * dsigmoid(f);
    t.dx[G] = dsquash(t.squash[0], g, dc * i);
    t.dp[PI] = t.dx[I] * t.s[C];
    t.dp[PF] = t.dx[F] * t.s[C];
    t.dp[PO] = t.dx[O] * t.next[C];
    t.ds[H] = 0;
    t.ds[C] = dc * f + t.full * (t.p[PI] * t.dx[I] + t.p[PF] * t.dx[F]);
  }
};

}  // namespace rnn
