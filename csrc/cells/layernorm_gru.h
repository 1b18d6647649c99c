// GRU, reset after the product, with layer normalisation, in two meanings.
#pragma once
#include "vocabulary.h"

namespace rnn {

// W x and R h each over all gates (Ba, Kiros & Hinton 2016, in the form of haste's LayerNormGRU).
struct LayerNormGru : CellDefaults {
  static constexpr const char* kName = "layernorm_gru";
  enum Gate { R, Z, N, kGates };
  enum State { H, kStates };
  enum Saved { kSaved = kGates };
  enum Parameter { GainX, GainU = kGates, GainUN = GainU + 2, Bias = 2 * kGates, BiasUN = 3 * kGates, kParameters };
  enum Norm { kNorms = kGates };
  static constexpr bool kNormInput = true;
  static constexpr int kGroups = 1;
  static constexpr int kNormGroup[] = {0, 0, 0};
  static constexpr int kGroupStage[] = {0};
  static constexpr int kStageEnd[] = {kGates, kGates};
  static constexpr int kSavedStage[] = {1, 1, 1};
  static constexpr int kStateStage = 1;
  static constexpr unsigned kSplit = (1u << kGates) - 1;
  static constexpr int kFirstBiasIh = kGates, kFirstBiasHh = kGates;  // they come after, as parameters
  static constexpr int kInputStage[] = {1, 1, 1};
  RNN_FN static constexpr int parameter_stage(int) { return 1; }

  template <class U> RNN_FN static auto input(const U& t, int g) { return t.p[GainX + g] * t.x[g] + t.p[Bias + g]; }
  template <class U> RNN_FN static auto candidate(const U& t) { return t.p[GainUN] * t.norm[N] + t.p[BiasUN]; }

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    for (int g = 0; g < kGates; ++g) t.norm[g] = t.u[g];
  }
  template <class U> RNN_FN static void forward(Stage<1>, U& t) {
    t.saved[R] = sigmoid(input(t, R) + t.p[GainU] * t.norm[R]);
    t.saved[Z] = sigmoid(input(t, Z) + t.p[GainU + 1] * t.norm[Z]);
    t.saved[N] = tanh(input(t, N) + t.saved[R] * candidate(t));
    t.next[H] = t.saved[N] + t.saved[Z] * (t.s[H] - t.saved[N]);
  }

  template <class U> RNN_FN static void backward(Stage<1>, U& t) {
    auto r = t.saved[R], z = t.saved[Z], n = t.saved[N], d = t.dnext[H];
    typename U::Lane da[kGates];
    da[N] = (d - d * z) * dtanh(n);
    da[R] = da[N] * candidate(t) * dsigmoid(r);
    da[Z] = d * (t.s[H] - n) * dsigmoid(z);
    for (int g = 0; g < kGates; ++g) {
      auto du = g == N ? da[N] * r : da[g];
      t.dp[Bias + g] = da[g];
      t.dp[GainX + g] = da[g] * t.x[g];
      t.dp[GainU + g] = du * t.norm[g];
      t.dx[g] = da[g] * t.p[GainX + g];
      t.dnorm[g] = du * t.p[GainU + g];
    }
    t.dp[BiasUN] = da[N] * r;
    t.ds[H] = d * z;
  }
  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    for (int g = 0; g < kGates; ++g) t.du[g] = t.dnorm[g];
  }
};

// Each gate's sum alone; the candidate's once its recurrent part is reset.
struct LayerNormGruGate : CellDefaults {
  static constexpr const char* kName = "layernorm_gru_gate";
  enum Gate { R, Z, N, kGates };
  enum State { H, kStates };
  enum Saved { UN = kGates, kSaved };
  enum Parameter { Gain, Bias = kGates, kParameters = 2 * kGates };
  enum Norm { kNorms = kGates };
  static constexpr int kGroups = 3;
  static constexpr int kNormGroup[] = {R, Z, N};
  static constexpr int kGroupStage[] = {0, 0, 1};
  static constexpr int kStageEnd[] = {kGates, kGates, kGates};
  static constexpr int kSavedStage[] = {1, 1, 2, 0};
  static constexpr int kStateStage = 1;
  static constexpr unsigned kSplit = 1u << N;
  static constexpr int kInputStage[] = {0, 0, 1};
  static constexpr int kRecurrentStage[] = {0, 0, 1};
  static constexpr int kFirstBiasIh = kGates, kFirstBiasHh = N;
  RNN_FN static constexpr int parameter_stage(int k) { return k % kGates == N ? 2 : 1; }

  template <class U> RNN_FN static auto sum(const U& t, int g) { return t.p[Gain + g] * t.norm[g] + t.p[Bias + g]; }

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    t.norm[R] = t.x[R] + t.u[R];
    t.norm[Z] = t.x[Z] + t.u[Z];
    t.saved[UN] = t.u[N];
  }
  template <class U> RNN_FN static void forward(Stage<1>, U& t) {
    t.saved[R] = sigmoid(sum(t, R));
    t.saved[Z] = sigmoid(sum(t, Z));
    t.norm[N] = t.x[N] + t.saved[R] * t.saved[UN];
  }
  template <class U> RNN_FN static void forward(Stage<2>, U& t) {
    t.saved[N] = tanh(sum(t, N));
    t.next[H] = t.saved[N] + t.saved[Z] * (t.s[H] - t.saved[N]);
  }

  template <class U> RNN_FN static void unsum(U& t, int g, typename U::Lane da) {
    t.dp[Gain + g] = da * t.norm[g];
    t.dp[Bias + g] = da;
    t.dnorm[g] = da * t.p[Gain + g];
  }
  template <class U> RNN_FN static void backward(Stage<2>, U& t) {
    auto d = t.dnext[H];
    unsum(t, N, (d - d * t.saved[Z]) * dtanh(t.saved[N]));
  }
  template <class U> RNN_FN static void backward(Stage<1>, U& t) {
    auto r = t.saved[R], z = t.saved[Z], d = t.dnext[H];
    t.dx[N] = t.dnorm[N];
    t.du[N] = t.dx[N] * r;
    unsum(t, R, t.dx[N] * t.saved[UN] * dsigmoid(r));
    unsum(t, Z, d * (t.s[H] - t.saved[N]) * dsigmoid(z));
    t.ds[H] = d * z;
  }
  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    t.dx[R] = t.dnorm[R];
    t.dx[Z] = t.dnorm[Z];
  }
};

}  // namespace rnn
