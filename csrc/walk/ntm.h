// What one call of a Neural Turing Machine works on, in plain structs. Axes besides README.md's: N rows of the memory,
// M numbers of a row, R read heads, K all heads (reads, then writes), P numbers that all heads take.
#pragma once
#include "../memory/content.h"
#include "../memory/shift.h"
#include "call.h"

namespace rnn {

// Which heads see the memory before which write: all before any; reads after all writes; or head pair by head pair.
enum Order { kReadFirst, kWriteFirst, kInterleaved, kOrders };

// Heads that address the same memory: the reads of [reads.from, reads.to), then the writes together.
struct Heads {
  int from, to;
  RNN_FN int size() const { return to - from; }
};
struct Phase {
  Heads reads, writes;
  RNN_FN int heads() const { return reads.size() + writes.size(); }
  RNN_FN int head(int k) const { return k < reads.size() ? reads.from + k : writes.from + k - reads.size(); }
};

inline constexpr int kMaxControllerLayers = 16;

// Sizes and conventions. Without layers there is no controller, and x is what the heads take.
struct Machine {
  int64_t inputs, hidden, rows, width;  // I, H, N, M
  int reads, writes, layers;
  int controller;  // in RNN_CONTROLLERS
  bool recurrent;
  Order order;
  Guard guard;
  Shift shift;
  bool tanh_key, tanh_add;
  bool activated;  // what the heads take is past its activations
  double eps, sharpen_eps, head_clip;

  RNN_FN int heads() const { return reads + writes; }
  RNN_FN bool writes_at(int head) const { return head >= reads; }

  // What a head takes: key (M), strength, gate, shifts, sharpening; to write also erase (M) and add (M).
  RNN_FN int64_t strength() const { return width; }
  RNN_FN int64_t gate() const { return width + 1; }
  RNN_FN int64_t shifts() const { return width + 2; }
  RNN_FN int64_t sharpening() const { return shifts() + shift.width(); }
  RNN_FN int64_t erase() const { return sharpening() + 1; }
  RNN_FN int64_t add() const { return erase() + width; }
  RNN_FN int64_t head_size(bool writing) const { return erase() + 2 * width * writing; }
  RNN_FN int64_t head_at(int head) const {
    int before = head < reads ? head : reads;
    return before * head_size(false) + (head - before) * head_size(true);
  }
  RNN_FN int64_t parameters() const { return head_at(heads()); }

  RNN_FN int64_t layer_inputs(int layer) const { return layer ? hidden : inputs + reads * width; }
  RNN_FN int64_t layer_width(int layer) const { return layer_inputs(layer) + hidden * recurrent; }
  RNN_FN int64_t read_numbers() const { return reads * width; }
  RNN_FN int64_t features() const { return (layers ? hidden : 0) + read_numbers(); }  // what the output reads

  RNN_FN int phases() const {
    return order == kReadFirst ? 1 : order == kWriteFirst ? 2 : reads > writes ? reads : writes;
  }
  RNN_FN Phase phase(int i) const {
    Heads all_reads{0, reads}, all_writes{reads, heads()}, none{0, 0};
    if (order == kReadFirst) return {all_reads, all_writes};
    if (order == kWriteFirst) return i ? Phase{all_reads, none} : Phase{none, all_writes};
    return {i < reads ? Heads{i, i + 1} : none, i < writes ? Heads{reads + i, reads + i + 1} : none};
  }
  RNN_FN int versions(int phases) const {  // of the memory that the first of its phases write
    int n = 0;
    for (int i = 0; i < phases; ++i) n += phase(i).writes.size() > 0;
    return n;
  }
  RNN_FN int versions() const { return versions(phases()); }

  // Memory and weightings are kept with the rows as the last axis, (M, N) and (N), padded with zeros.
  static constexpr int64_t kPad = 16;
  RNN_FN static int64_t pad(int64_t n) { return (n + kPad - 1) / kPad * kPad; }
  RNN_FN int64_t padded_rows() const { return pad(rows); }
  RNN_FN int64_t memory_numbers() const { return width * padded_rows(); }
};

// Where a frame's numbers lie in what is saved of it, and what else is saved.
struct Record {
  int64_t layer[kMaxControllerLayers];   // what its product reads (layer_width), what its cell saves, its states but h
  int64_t features, parameters, values;  // values: what the heads take, past its activations
  int64_t weightings, contents, similarities, norms, numbers;

  int64_t filled;  // numbers before the first padded row; from there on zeros fill up

  RNN_FN Record(const Machine& m, const Facts& f) {
    int64_t at = 0, rows = m.padded_rows();
    auto take = [&](int64_t n) { return at += n, at - n; };
    for (int l = 0; l < m.layers; ++l) layer[l] = take(m.layer_width(l) + (f.saved + f.states - 1) * m.hidden);
    features = take(m.features());
    parameters = take(m.parameters());
    values = m.activated ? parameters : take(m.parameters());
    filled = at;
    at = Machine::pad(at);
    weightings = take(m.heads() * rows);
    contents = take(m.heads() * rows);
    similarities = take(m.heads() * rows);
    norms = take(m.phases() * rows);
    numbers = at;
    chunks = (m.memory_numbers() + numbers - 1) / numbers;
  }

  // A memory is kept before every kTicks-th tick but the first: the writes in between are made again. It lies in so
  // many rows as long as a record, behind the records of all frames, those of a batch's rows side by side.
  static constexpr int64_t kTicks = 4;
  int64_t chunks;
  RNN_FN static int64_t memories(int64_t ticks) { return ticks > 0 ? (ticks - 1) / kTicks : 0; }
  RNN_FN int64_t rows(int64_t ticks, int64_t batch) const { return (ticks + memories(ticks) * chunks) * batch; }
  // Calls f(from number, numbers, row) for the parts of the k-th memory of row b.
  template <class F> RNN_FN void over_chunks(const Machine& m, int64_t ticks, int64_t batch, int64_t k, int64_t b,
                                             F&& f) const {
    for (int64_t r = 0, left = m.memory_numbers(); r < chunks; ++r, left -= numbers)
      f(r * numbers, left < numbers ? left : numbers, (ticks + k * chunks + r) * batch + b);
  }
};

// One call; null where absent. States before and after it, and their gradients: each of the controller's (layers, B,
// H), then memory (B,N,M), reads (B,R,M), weightings (B,K,N).
enum { kMemory = kMaxStates, kReads, kWeightings, kNtmStates };
template <class Real> struct NtmCall {
  Machine machine;
  Timeline time;
  const Real* x;  // (T,B,I), or of what the heads take (T,B,P)
  int64_t x_tick, x_row;
  const Real* weight[kMaxControllerLayers];  // (gates H, layer_width)
  const Real* bias[kMaxControllerLayers];    // (gates H)
  const Real *head_weight, *head_bias;       // (P,H) (P)
  const Real* first[kNtmStates];
  Real* final[kNtmStates];
  Real* features;  // (frames, features), rows of ld_features; part of what is saved, if that is
  int64_t ld_features;
  Real* saved;  // (Record::rows, Record::numbers)

  const Real* grad_features;
  const Real* grad_final[kNtmStates];
  Real* grad_first[kNtmStates];
  Real* grad_x;                            // as x, dense, by place
  Real* grad_gates[kMaxControllerLayers];  // (frames, gates H)
  Real* grad_parameters;                   // (frames, P)

  RNN_FN const Real* x_at(int64_t t, int64_t b) const { return x + time.tick_at(t) * x_tick + time.row_at(b) * x_row; }
};

}  // namespace rnn
