// All ticks of a call in one cooperative launch: how they are laid over the card's blocks, and the table of kernels.
#pragma once
#include "sweep.h"

namespace rnn::cuda {

// A block is kWarps warps. A panel of weights is kColumns columns of the product by `chunks` chunks of its terms; a
// chunk is one load of kLoad bytes by each lane of a warp. Each warp holds one panel in registers.
inline constexpr int kWarps = 8, kWalkThreads = 32 * kWarps, kColumns = 8, kChunks = 4;
inline constexpr int kLoad = 16, kChunkBytes = 32 * kLoad;

// Rows that a warp multiplies at once, of numbers of so many bytes.
RNN_FN constexpr int tile_rows(int bytes) { return 16 / bytes; }

// What of a card counts here.
struct Card {
  int multiprocessors;
  int64_t shared;  // bytes that a block may have
};

// The product that stands between two ticks: (rows, terms) by (terms, units * columns).
struct Shape {
  int64_t rows, units, terms;
  int columns;  // of a unit: its gates, or backward the states that feed back
  int bytes;    // of a number
};

// A block owns the columns of some units, for some rows: row b is of slice b % row_slices.
struct Layout {
  int blocks;  // unit slices by row slices; 0: none, it does not fit
  int row_slices, unit_slices, units, all_units;
  int column_groups, term_groups, chunks;  // panels are column groups by term groups
  int all_chunks;                          // of the terms
  int pass, room;                          // rows that are staged at a time, and room for them
  int staged;                              // numbers of a staged row
  int64_t shared;                          // bytes

  RNN_FN int panels() const { return column_groups * term_groups; }
  RNN_FN int columns() const { return column_groups * kColumns; }
};

// Of the layouts that fit the one that the estimate finds fastest.
Layout lay_out(const Shape&, const Card&);

template <class Real> struct Persistent {
  bool (*fits)(const Layout&);  // whether a multiprocessor can hold a block
  void (*run)(const Step<Real>&, const Layout&, Stream);
};
// Null for cells that are more than one stage or have no recurrent product.
template <class Real> const Persistent<Real>* persistent_forward(int cell);
template <class Real> const Persistent<Real>* persistent_backward(int cell);
extern template const Persistent<float>* persistent_forward(int);
extern template const Persistent<float>* persistent_backward(int);
extern template const Persistent<double>* persistent_forward(int);
extern template const Persistent<double>* persistent_backward(int);

}  // namespace rnn::cuda
