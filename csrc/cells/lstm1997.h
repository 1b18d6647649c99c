// The memory cells of Hochreiter & Schmidhuber 1997 (eqs 3 to 9), whose gates may feed back; with the forget gate of
// Gers, Schmidhuber & Cummins 2000 or without, with an output gate or without.
#pragma once
#include "vocabulary.h"

namespace rnn {

template <bool forgets, bool closes> struct Lstm1997 : CellDefaults {
  static constexpr const char* kName = forgets  ? closes ? "lstm1997_forget" : "lstm1997_forget_open"
                                       : closes ? "lstm1997"
                                                : "lstm1997_open";
  enum Gate { I, F, G = F + forgets, O, kGates = O + closes };
  enum State { H, GateI, GateF, GateO = GateF + forgets, C = GateO + closes, kStates };
  enum Saved { kSaved = kGates };
  static constexpr int kStageEnd[] = {kGates};
  static constexpr unsigned kShared = 1u << I | unsigned(forgets) << F | unsigned(closes) << O;
  static constexpr int kFed = C;
  static constexpr int kFirstBiasHh = kGates;
  static constexpr int kCell = C;

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    auto i = t.saved[I] = t.next[GateI] = sigmoid(t.x[I] + t.u[I]);
    auto g = t.saved[G] = squash(t.squash[0], t.x[G] + t.u[G]);
    auto kept = t.s[C];
    if constexpr (forgets) kept = (t.saved[F] = t.next[GateF] = sigmoid(t.x[F] + t.u[F])) * kept;
    t.next[C] = t.clip(kept + i * g);
    t.next[H] = squash(t.squash[1], t.next[C]);
    if constexpr (closes) t.next[H] = t.next[H] * (t.saved[O] = t.next[GateO] = sigmoid(t.x[O] + t.u[O]));
  }

  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    auto i = t.saved[I], g = t.saved[G], y = squash(t.squash[1], t.next[C]), dy = t.dnext[H];
    if constexpr (closes) {
      t.dx[O] = (dy * y + t.dnext[GateO]) * dsigmoid(t.saved[O]);
      t.ds[GateO] = 0;
      dy = dy * t.saved[O];
    }
    auto dc = t.dclip(t.next[C], t.dnext[C] + dsquash(t.squash[1], y, dy));
    t.dx[I] = (dc * g + t.dnext[GateI]) * dsigmoid(i);
    t.dx[G] = dsquash(t.squash[0], g, dc * i);
    t.ds[H] = t.ds[GateI] = 0;
    t.ds[C] = dc;
    if constexpr (forgets) {
      t.dx[F] = (dc * t.s[C] + t.dnext[GateF]) * dsigmoid(t.saved[F]);
      t.ds[GateF] = 0;
      t.ds[C] = dc * t.saved[F];
    }
  }
};

using Lstm1997Plain = Lstm1997<false, true>;
using Lstm1997Forget = Lstm1997<true, true>;
using Lstm1997Open = Lstm1997<false, false>;
using Lstm1997ForgetOpen = Lstm1997<true, false>;

}  // namespace rnn
