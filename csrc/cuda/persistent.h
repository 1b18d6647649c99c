// All ticks of a call in one cooperative launch: how they are laid over the card's blocks, and the table of kernels.
#pragma once
#include "sweep.h"

namespace rnn::cuda {

inline constexpr int kWarps = 8, kWalkThreads = 32 * kWarps;

// How a warp multiplies. A panel of weights is `columns` columns of the product by up to `chunks` chunks of `terms` of
// its terms, kChunkBytes each: what the registers of a warp hold.
inline constexpr int kChunkBytes = 4096;
struct Panel {
  int columns, terms, chunks;
  int rows, fewest;                    // that are multiplied at once, and the fewest
  int bytes;                           // of a number of a row
  int load;                            // numbers of a row that a lane loads at a time
  int pad;                             // numbers between two rows in shared memory, which would lie in the same banks
  int scratch;                         // bytes of shared memory in which a warp brings weights into shape
  int capability;                      // 10 * major + minor of cards that multiply so
  double tile, one, of_chunk, of_one;  // cycles of `rows` rows and of one, before and for each chunk: measured

  bool operator==(const Panel&) const = default;
};
template <class Real> inline constexpr int kLoad = 16 / sizeof(Real);  // numbers that a lane loads at a time
// By the cores that compute in Real: a lane has kLoad terms of each column. Cells in double need registers of their
// own.
template <class Real>
inline constexpr Panel kFmaPanel{.columns = 8,
                                 .terms = 32 * kLoad<Real>,
                                 .chunks = sizeof(Real) > 4 ? 3 : 4,
                                 .rows = kLoad<Real>,
                                 .fewest = 1,
                                 .bytes = sizeof(Real),
                                 .load = kLoad<Real>,
                                 .pad = 0,
                                 .scratch = 0,
                                 .capability = 0,
                                 .tile = 190,
                                 .one = 140,
                                 .of_chunk = 150,
                                 .of_one = 90};
// By tensor cores: weights that are halves, rows of float, each number of which is the sum of two halves.
inline constexpr Panel tensor_panel(int capability) {
  return {.columns = 32,
          .terms = 64,
          .chunks = 4,
          .rows = 8,
          .fewest = 8,
          .bytes = sizeof(float),
          .load = kLoad<float>,
          .pad = 8,
          .scratch = 1024,
          .capability = capability,
          .tile = 520,
          .one = 520,
          .of_chunk = 250,
          .of_one = 250};
}

// What of a card counts here.
struct Card {
  int multiprocessors;
  int64_t shared;  // bytes that a block may have

  bool operator==(const Card&) const = default;
};

// The product that stands between two ticks: (rows, terms) by (terms, units * columns). No terms: there is none.
struct Shape {
  int64_t rows, units, terms;
  int columns;  // of a unit: its gates, or backward the states that feed back

  bool operator==(const Shape&) const = default;
};

// Divides by a number that the host knows, by multiplying with its inverse: the GPU's own division of integers is some
// twenty instructions. n >= 0, n * by < 2^32.
struct Divisor {
  int by;
  uint32_t inverse;  // 2^32 / by, rounded up past it; 0: by is 1

  Divisor() = default;
  explicit Divisor(int by) : by(by), inverse(by > 1 ? static_cast<uint32_t>((uint64_t{1} << 32) / by + 1) : 0) {}
  RNN_FN int quotient(int n) const {
    return inverse ? static_cast<int>(static_cast<uint64_t>(static_cast<uint32_t>(n)) * inverse >> 32) : n;
  }
  RNN_FN int remainder(int n) const { return n - quotient(n) * by; }
};

// A block owns the columns of some units, for some rows: row b is of slice b % row_slices, a power of two.
struct Layout {
  int blocks;  // unit slices by row slices; 0: none, it does not fit
  int row_slices, row_bits, unit_slices, units, all_units;
  int column_groups, term_groups, chunks;  // panels are column groups by term groups
  int columns;                             // of all panels side by side
  int all_chunks;                          // of the terms
  int pass, room;                          // rows that are staged at a time, and room for them
  int staged;                              // numbers from one staged row to the next
  int64_t panels_at, shared;               // bytes before the panels that are in shared memory, and in all
  Divisor by_units, by_column_groups, by_panels, by_loads;  // loads: of a staged row
  double cycles;                                            // of a tick: an estimate

  RNN_FN int panels() const { return column_groups * term_groups; }
  RNN_FN bool meets() const { return unit_slices > 1 && all_chunks > 0; }  // whether blocks wait for each other
};

// Of the layouts that fit the one that the estimate finds fastest. A search of tens of microseconds: each host thread
// keeps what it found last.
Layout lay_out(const Shape&, const Panel&, const Card&);
long searches();  // that this thread has made

// Cycles of a tick that is a product and a kernel, by an estimate: they are launched at the pace of the host, and
// cuBLAS makes half of the multiply-adds that a multiprocessor can make in a cycle, without TF32.
inline double tick_cycles(const Shape& s, const Card& card, double multiply_adds) {
  return 16000 + 2.0 * s.rows * s.units * s.columns * s.terms / (card.multiprocessors * multiply_adds);
}

template <class Real> struct Persistent {
  Panel panel;
  bool (*fits)(const Layout&);  // whether a multiprocessor can hold a block
  void (*run)(const Step<Real>&, const Layout&, Stream);
};

// Weights as a walk holds them: numbers of Real, or halves, for rows of float.
struct Bfloat16 {};
struct Float16 {};
template <class Weight> struct RealOf {
  using type = float;
};
template <> struct RealOf<double> {
  using type = double;
};

// Null for cells of more than one stage, and with halves for those without recurrent product.
template <class Weight, bool forward> const Persistent<typename RealOf<Weight>::type>* persistent(int cell);
#define RNN_PERSISTENT(maybe_extern, Weight)                                                            \
  maybe_extern template const Persistent<typename RealOf<Weight>::type>* persistent<Weight, true>(int); \
  maybe_extern template const Persistent<typename RealOf<Weight>::type>* persistent<Weight, false>(int);
RNN_PERSISTENT(extern, float)
RNN_PERSISTENT(extern, double)
RNN_PERSISTENT(extern, Bfloat16)
RNN_PERSISTENT(extern, Float16)

}  // namespace rnn::cuda
