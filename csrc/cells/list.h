// Every cell of the package. Ops, modules, tests and bench rows are loops over this list.
#pragma once
#include "gru.h"
#include "lstm.h"
#include "minimal_gru.h"
#include "rnn.h"

#define RNN_CELLS(X) \
  X(Lstm)            \
  X(Gru)             \
  X(RnnTanh)         \
  X(RnnRelu)         \
  X(MinimalGru)
