// Reading and writing a memory row by its weight (Graves et al. 2014, eqs 2 to 4). Several heads write at once: all
// erase, then all add.
#pragma once
#include "../cells/vocabulary.h"

namespace rnn {

struct Read {
  template <class V> RNN_FN static V forward(V sum, V w, V memory) { return V::fma(w, memory, sum); }
  template <class V> RNN_FN static void backward(V dread, V w, V memory, V& dw, V& dmemory) {
    dw = V::fma(dread, memory, dw);
    dmemory = V::fma(dread, w, dmemory);
  }
};

struct Erase {
  template <class V> RNN_FN static V forward(V memory, V w, V erase) { return memory - memory * (w * erase); }
  // From the gradient d of the erased memory, which becomes that of the memory before.
  template <class V> RNN_FN static void backward(V memory, V w, V erase, V& d, V& dw, V& derase) {
    V lost = d * memory;
    dw = dw - lost * erase;
    derase = derase - lost * w;
    d = d - d * (w * erase);
  }
};

struct Add {
  template <class V> RNN_FN static V forward(V memory, V w, V add) { return V::fma(w, add, memory); }
  template <class V> RNN_FN static void backward(V d, V w, V add, V& dw, V& dadd) {
    dw = V::fma(d, add, dw);
    dadd = V::fma(d, w, dadd);
  }
};

}  // namespace rnn
