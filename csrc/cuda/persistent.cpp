// Lays a walk in one launch over a card's blocks, by a cost model whose constants are estimates: nothing was measured.
#include "persistent.h"

#include <algorithm>
#include <climits>
#include <numeric>

namespace rnn::cuda {
namespace {

int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cycles of a tick.
double cost(const Layout& l, const Shape& s) {
  const int64_t rows = up(s.rows, l.row_slices), passes = up(rows, l.pass);
  const int panels = l.panels(), in_shared = std::max(panels - kWarps, 0);
  // A scheduler issues for two warps. Panels in shared memory cost loads: of 16 bytes, 12 for 128 multiplications.
  const double of_tile = rows > 1 ? 160 + 128 * l.chunks : 60 + 32 * l.chunks;
  const int64_t in_turn = passes * up(up(l.pass, tile_rows(s.bytes)), std::max(kWarps / panels, 1));
  const double product = 2 * of_tile * in_turn * (1 + 1.5 * in_shared / kWarps);
  const double staging = 700.0 * passes + static_cast<double>(rows * s.terms * s.bytes) / 32;
  const double units = 600 + 400.0 * up(rows * l.units, kWalkThreads);
  const double meeting = l.unit_slices > 1 ? 1500 + 4.0 * l.blocks : 50;
  return product + staging + units + meeting;
}

// Fills in what follows from the slices and the number of term groups; false where a block has not the room.
bool complete(Layout& l, const Shape& s, const Card& card) {
  const int chunk = kChunkBytes / s.bytes;
  const int64_t all_chunks = up(s.terms, chunk), columns = up(int64_t(l.units) * s.columns, kColumns);
  l.chunks = static_cast<int>(up(all_chunks, l.term_groups));
  if (l.chunks > kChunks) return false;
  l.term_groups = static_cast<int>(up(all_chunks, l.chunks));
  l.all_chunks = static_cast<int>(all_chunks);
  l.column_groups = static_cast<int>(columns);
  l.staged = static_cast<int>(all_chunks * chunk);
  l.blocks = l.row_slices * l.unit_slices;
  if (up(s.rows, l.row_slices) * l.units > INT_MAX) return false;
  const int64_t panel = int64_t(kColumns) * kChunkBytes * l.chunks;
  const int64_t held = std::max<int64_t>(columns * l.term_groups - kWarps, 0) * panel;
  const int64_t row = (l.staged + l.term_groups * columns * kColumns) * s.bytes;
  const int64_t fit = (card.shared - held) / row;
  const int tile = tile_rows(s.bytes);
  int64_t rows = up(s.rows, l.row_slices);
  if (rows > 1 && up(rows, tile) * tile > fit) rows = fit < tile ? 1 : fit / tile * tile;
  l.room = static_cast<int>(rows > 1 ? up(rows, tile) * tile : 1);
  l.pass = static_cast<int>(rows);
  l.shared = held + l.room * row;
  return l.shared <= card.shared;
}

}  // namespace

Layout lay_out(const Shape& s, const Card& card) {
  Layout best{};
  if (s.rows < 1 || s.units < 1) return best;
  const int64_t chunks = up(s.terms, kChunkBytes / s.bytes), fewest = up(chunks, kChunks);
  if (std::max({s.terms, s.units, s.rows}) > (1 << 20)) return best;  // what follows is in int
  const int whole = kColumns / std::gcd(kColumns, s.columns);         // units whose columns fill panels
  double least = 0;
  for (int64_t row_slices = 1; row_slices <= std::min<int64_t>(s.rows, card.multiprocessors); row_slices *= 2)
    for (int64_t spread = card.multiprocessors / row_slices; spread > 0; spread /= 2)
      for (int64_t units : {up(s.units, spread), up(up(s.units, spread), whole) * whole}) {
        const int64_t groups = up(units * s.columns, kColumns);
        for (int64_t terms : {fewest, std::clamp<int64_t>(kWarps / groups, fewest, std::max(chunks, fewest))}) {
          Layout l{};
          l.row_slices = static_cast<int>(row_slices);
          l.units = static_cast<int>(std::min(units, s.units));
          l.all_units = static_cast<int>(s.units);
          l.unit_slices = static_cast<int>(up(s.units, l.units));
          l.term_groups = static_cast<int>(terms);
          if (!complete(l, s, card)) continue;
          const double cycles = cost(l, s);
          if (best.blocks && cycles >= least) continue;
          best = l;
          least = cycles;
        }
      }
  return best;
}

}  // namespace rnn::cuda
