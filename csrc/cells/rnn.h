// The simple recurrent network of torch.nn.RNN (Elman 1990), with any of three nonlinearities.
#pragma once
#include "vocabulary.h"

namespace rnn {

struct Tanh {
  static constexpr const char* kName = "rnn_tanh";
  template <class V> RNN_FN static V value(V x) { return tanh(x); }
  template <class V> RNN_FN static V gradient(V y, V d) { return d * dtanh(y); }
};

struct Relu {
  static constexpr const char* kName = "rnn_relu";
  template <class V> RNN_FN static V value(V x) { return relu(x); }
  template <class V> RNN_FN static V gradient(V y, V d) { return drelu(y, d); }
};

struct Logistic {
  static constexpr const char* kName = "rnn_logistic";
  template <class V> RNN_FN static V value(V x) { return sigmoid(x); }
  template <class V> RNN_FN static V gradient(V y, V d) { return d * dsigmoid(y); }
};

template <class Activation> struct Rnn : CellDefaults {
  static constexpr const char* kName = Activation::kName;
  enum Gate { A, kGates };
  enum State { H, kStates };
  enum Saved { kSaved = kGates };
  static constexpr int kStageEnd[] = {kGates};

  template <class U> RNN_FN static void forward(Stage<0>, U& t) {
    t.next[H] = t.saved[A] = Activation::value(t.x[A] + t.u[A]);
  }

  template <class U> RNN_FN static void backward(Stage<0>, U& t) {
    t.dx[A] = Activation::gradient(t.saved[A], t.dnext[H]);
    t.ds[H] = 0;
  }
};

using RnnTanh = Rnn<Tanh>;
using RnnRelu = Rnn<Relu>;
using RnnLogistic = Rnn<Logistic>;

}  // namespace rnn
