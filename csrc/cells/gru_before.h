// GRU with the reset gate before the candidate's product: Cho et al. 2014, and the gate variants of Dey & Salem 2017.
#pragma once
#include "vocabulary.h"

namespace rnn {

// What tells the variants apart: inputs of the gates, their biases, and which side of the blend z is on.
struct ResetBefore {
  static constexpr const char* kName = "gru_before";
  static constexpr bool kTwoBiases = true, kGateInputs = true, kGateBiases = true, kKeepsByZ = true;
};
struct DeySalem1 {
  static constexpr const char* kName = "gru1";
  static constexpr bool kTwoBiases = false, kGateInputs = false, kGateBiases = true, kKeepsByZ = false;
};
struct DeySalem2 {
  static constexpr const char* kName = "gru2";
  static constexpr bool kTwoBiases = false, kGateInputs = false, kGateBiases = false, kKeepsByZ = false;
};

template <class Variant> struct GruBeforeOf : CellDefaults {
  static constexpr const char* kName = Variant::kName;
  enum Gate { R, Z, N, kGates };
  enum State { H, kStates };
  enum Saved { kSaved = kGates };
  static constexpr int kStageEnd[] = {Z + 1, N + 1};
  static constexpr int kFirstInput = Variant::kGateInputs ? R : N;
  static constexpr int kFirstBiasIh = Variant::kGateBiases ? R : N;
  static constexpr int kFirstBiasHh = Variant::kTwoBiases ? 0 : kGates;

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    t.saved[R] = sigmoid(t.x[R] + t.u[R]);
    t.saved[Z] = sigmoid(t.x[Z] + t.u[Z]);
    t.operand = t.saved[R] * t.s[H];
  }
  template <class U> RNN_FN static void forward(Stage<1>, U& t) {
    auto n = t.saved[N] = squash(t.squash[0], t.x[N] + t.u[N]);
    t.next[H] = Variant::kKeepsByZ ? n + t.saved[Z] * (t.s[H] - n) : t.s[H] + t.saved[Z] * (n - t.s[H]);
  }

  template <class U> RNN_FN static void backward(Stage<1>, U& t) {
    auto z = t.saved[Z], d = t.dnext[H];
    t.dx[N] = dsquash(t.squash[0], t.saved[N], Variant::kKeepsByZ ? d - d * z : d * z);
  }
  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    auto r = t.saved[R], z = t.saved[Z], d = t.dnext[H], away = t.s[H] - t.saved[N];
    t.dx[R] = t.doperand * t.s[H] * dsigmoid(r);
    t.dx[Z] = (Variant::kKeepsByZ ? d : 0 - d) * away * dsigmoid(z);
    t.ds[H] = (Variant::kKeepsByZ ? d * z : d - d * z) + t.doperand * r;
  }
};

using GruBefore = GruBeforeOf<ResetBefore>;
using Gru1 = GruBeforeOf<DeySalem1>;
using Gru2 = GruBeforeOf<DeySalem2>;

// Gates that hang on nothing but a bias do not change: they come activated, as parameters. r * h is then h with its
// units scaled, which the product reads.
struct Gru3 : CellDefaults {
  static constexpr const char* kName = "gru3";
  enum Gate { N, kGates };
  enum State { H, kStates };
  enum Saved { kSaved = kGates };
  enum Parameter { R, Z, kParameters };
  static constexpr int kStageEnd[] = {0, N + 1};
  static constexpr int kFirstBiasHh = kGates;
  RNN_FN static constexpr int parameter_stage(int k) { return k == Z; }

  template <class U> RNN_FN static void forward(Stage<0>, U& t) { t.operand = t.p[R] * t.s[H]; }
  template <class U> RNN_FN static void forward(Stage<1>, U& t) {
    t.saved[N] = squash(t.squash[0], t.x[N] + t.u[N]);
    t.next[H] = t.s[H] + t.p[Z] * (t.saved[N] - t.s[H]);
  }

  template <class U> RNN_FN static void backward(Stage<1>, U& t) {
    t.dx[N] = dsquash(t.squash[0], t.saved[N], t.dnext[H] * t.p[Z]);
    t.dp[Z] = t.dnext[H] * (t.saved[N] - t.s[H]);
  }
  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    t.dp[R] = t.doperand * t.s[H];
    t.ds[H] = t.dnext[H] - t.dnext[H] * t.p[Z] + t.doperand * t.p[R];
  }
};

}  // namespace rnn
