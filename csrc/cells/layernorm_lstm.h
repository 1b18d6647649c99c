// LSTM with layer normalisation, in the three meanings in use.
#pragma once
#include "vocabulary.h"

namespace rnn {

enum class LstmNorm {
  kBa2016,  // Ba, Kiros & Hinton 2016, eqs 20 to 22: W x and R h each over all gates; c on its way out, carried raw
  kCarry,   // the same, c carried normalised
  kGate,    // each gate's sum alone, c carried normalised (TensorFlow 1)
};

template <LstmNorm norm> struct LayerNormLstmOf : CellDefaults {
  static constexpr bool kGate = norm == LstmNorm::kGate, kRaw = norm == LstmNorm::kBa2016;
  static constexpr const char* kName = kGate ? "layernorm_lstm_gate" : kRaw ? "layernorm_lstm" : "layernorm_lstm_carry";
  enum Gate { I, F, G, O, kGates };
  enum State { H, C, kStates };
  enum Saved { kSaved = kGates };
  enum Parameter {
    GainX = 0,
    GainU = kGate ? 0 : kGates,
    Bias = GainU + kGates,
    GainC = Bias + kGates,
    ShiftC,
    kParameters
  };
  enum Norm { Cell = kGates, kNorms };
  static constexpr bool kNormInput = !kGate;
  static constexpr int kGroups = kGate ? kGates + 1 : 2;
  // With their lengths: nvcc takes a template's array of unknown length for empty.
  static constexpr int kNormGroup[5] = {0, kGate ? 1 : 0, kGate ? 2 : 0, kGate ? 3 : 0, kGroups - 1};
  static constexpr int kGroupStage[5] = {0, kGate ? 0 : 1, 0, 0, 1};
  static constexpr int kStageEnd[] = {kGates, kGates, kGates};
  static constexpr int kSavedStage[4] = {1, 1, 1, 1};
  static constexpr int kStateStage = 1;
  static constexpr unsigned kSplit = kGate ? 0 : (1u << kGates) - 1;
  static constexpr int kInputStage[4] = {!kGate, !kGate, !kGate, !kGate};
  static constexpr int kCell = C;
  static constexpr int kFirstBiasIh = kGates, kFirstBiasHh = kGates;  // they come after, as parameters
  RNN_FN static constexpr int parameter_stage(int k) { return k < GainC ? 1 : 2; }

  template <class U> RNN_FN static auto sum(const U& t, int g) {
    auto sum = t.p[GainU + g] * t.norm[g] + t.p[Bias + g];
    return kGate ? sum : t.p[GainX + g] * t.x[g] + sum;
  }

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    for (int g = 0; g < kGates; ++g) t.norm[g] = kGate ? t.x[g] + t.u[g] : t.u[g];
  }
  template <class U> RNN_FN static void forward(Stage<1>, U& t) {
    t.saved[I] = sigmoid(sum(t, I));
    t.saved[F] = sigmoid(sum(t, F));
    t.saved[G] = tanh(sum(t, G));
    t.saved[O] = sigmoid(sum(t, O));
    t.norm[Cell] = t.clip(t.saved[F] * t.s[C] + t.saved[I] * t.saved[G]);
  }
  template <class U> RNN_FN static void forward(Stage<2>, U& t) {
    auto c = t.p[GainC] * t.norm[Cell] + t.p[ShiftC];
    t.next[C] = kRaw ? t.raw[Cell] : c;
    t.next[H] = t.saved[O] * tanh(c);
  }

  template <class U> RNN_FN static void backward(Stage<2>, U& t) {
    auto y = tanh(t.p[GainC] * t.norm[Cell] + t.p[ShiftC]);
    auto dc = t.dnext[H] * t.saved[O] * dtanh(y);
    if constexpr (!kRaw) dc = dc + t.dnext[C];
    t.dp[GainC] = dc * t.norm[Cell];
    t.dp[ShiftC] = dc;
    t.dnorm[Cell] = dc * t.p[GainC];
  }
  template <class U> RNN_FN static void backward(Stage<1>, U& t) {
    auto i = t.saved[I], f = t.saved[F], g = t.saved[G], o = t.saved[O];
    auto y = tanh(t.p[GainC] * t.norm[Cell] + t.p[ShiftC]);
    auto dc = t.dnorm[Cell];
    if constexpr (kRaw) dc = dc + t.dnext[C];
    dc = t.dclip(f * t.s[C] + i * g, dc);
    typename U::Lane da[kGates];
    da[I] = dc * g * dsigmoid(i);
    da[F] = dc * t.s[C] * dsigmoid(f);
    da[G] = dc * i * dtanh(g);
    da[O] = t.dnext[H] * y * dsigmoid(o);
    for (int k = 0; k < kGates; ++k) {
      t.dp[Bias + k] = da[k];
      t.dp[GainU + k] = da[k] * t.norm[k];
      t.dnorm[k] = da[k] * t.p[GainU + k];
      if constexpr (!kGate) {
        t.dp[GainX + k] = da[k] * t.x[k];
        t.dx[k] = da[k] * t.p[GainX + k];
      }
    }
    t.ds[H] = 0;
    t.ds[C] = dc * f;
  }
  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    for (int g = 0; g < kGates; ++g) (kGate ? t.dx[g] : t.du[g]) = t.dnorm[g];
  }
};

using LayerNormLstm = LayerNormLstmOf<LstmNorm::kBa2016>;
using LayerNormLstmCarry = LayerNormLstmOf<LstmNorm::kCarry>;
using LayerNormLstmGate = LayerNormLstmOf<LstmNorm::kGate>;

}  // namespace rnn
