// Independently recurrent network (Li et al. 2018): each unit sees its own past alone, no recurrent product at all.
#pragma once
#include "vocabulary.h"

namespace rnn {

struct IndRnn : CellDefaults {
  static constexpr const char* kName = "ind_rnn";
  enum Gate { A, kGates };
  enum State { H, kStates };
  enum Saved { kSaved = kGates };
  enum Parameter { Weight, kParameters };
  static constexpr int kStageEnd[] = {kGates};
  static constexpr int kFed = 0;
  static constexpr int kFirstBiasHh = kGates;

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    t.next[H] = t.saved[A] = squash(t.squash[0], t.x[A] + t.p[Weight] * t.mask * t.s[H]);
  }

  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    t.dx[A] = dsquash(t.squash[0], t.saved[A], t.dnext[H]);
    t.dp[Weight] = t.dx[A] * t.mask * t.s[H];
    t.ds[H] = t.full * t.dx[A] * t.mask * t.p[Weight];
  }
};

}  // namespace rnn
