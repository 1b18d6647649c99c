// Every cell of the package. Ops, modules, tests and bench rows are loops over this list.
#pragma once
#include "coupled_lstm.h"
#include "gru.h"
#include "gru_before.h"
#include "ind_rnn.h"
#include "layernorm_gru.h"
#include "layernorm_lstm.h"
#include "lstm.h"
#include "lstm1997.h"
#include "minimal_gru.h"
#include "peephole_lstm.h"
#include "rnn.h"

#define RNN_CELLS(X)    \
  X(Lstm)               \
  X(Gru)                \
  X(RnnTanh)            \
  X(RnnRelu)            \
  X(RnnLogistic)        \
  X(MinimalGru)         \
  X(PeepholeLstm)       \
  X(CoupledLstm)        \
  X(GruBefore)          \
  X(Gru1)               \
  X(Gru2)               \
  X(Gru3)               \
  X(IndRnn)             \
  X(LayerNormLstm)      \
  X(LayerNormLstmCarry) \
  X(LayerNormLstmGate)  \
  X(LayerNormGru)       \
  X(LayerNormGruGate)   \
  X(Lstm1997Plain)      \
  X(Lstm1997Forget)     \
  X(Lstm1997Open)       \
  X(Lstm1997ForgetOpen)

// Those that can be the controller of a Neural Turing Machine: one stage, and gates that take the sum of both products.
#define RNN_CONTROLLERS(X) \
  X(Lstm)                  \
  X(RnnTanh)
