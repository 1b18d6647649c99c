// Lays a walk in one launch over a card's blocks, by a cost model. Its constants are fitted to 1,134 layouts of an
// LSTM's walk, in float32 and bfloat16, that an H100 ran (bench/gpu/layouts.cu; bench/results/cards/): 9 % off (root
// mean square of those that are no more than 1.6 times the best), and what it chooses takes 1 % longer than the best.
#include "persistent.h"

#include <algorithm>
#include <array>
#include <bit>
#include <climits>
#include <numeric>

namespace rnn::cuda {
namespace {

int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cycles of a tick.
double cost(const Layout& l, const Shape& s, const Panel& p) {
  const int64_t rows = up(s.rows, l.row_slices), passes = up(rows, l.pass);
  const double units = 1700 + 1600.0 * up(rows * l.units, kWalkThreads);
  if (s.terms == 0) return units;
  const int panels = l.panels(), in_shared = std::max(panels - kWarps, 0);
  // A scheduler issues for two warps. Panels in shared memory cost loads.
  const double of_tile = rows > p.fewest ? p.tile + p.of_chunk * l.chunks : p.one + p.of_one * l.chunks;
  const int64_t in_turn = passes * up(up(l.pass, p.rows), std::max(kWarps / panels, 1));
  const double product = 2 * of_tile * in_turn * (1 + 1.9 * in_shared / kWarps);
  const double staging = 50.0 * passes + static_cast<double>(rows * s.terms * p.bytes) / 13.4;
  const double meeting = l.meets() ? 1850 + 1.0 * l.blocks : 50;
  return product + staging + units + meeting;
}

// Fills in what follows from the slices and the number of term groups; false where a block has not the room.
bool complete(Layout& l, const Shape& s, const Panel& p, const Card& card) {
  const int64_t slice = up(s.rows, l.row_slices);
  l.blocks = l.row_slices * l.unit_slices;
  l.pass = static_cast<int>(slice);
  l.row_bits = std::countr_zero(static_cast<unsigned>(l.row_slices));
  if (slice * l.units > UINT_MAX / l.units) return false;  // what `by_units` can divide
  l.by_units = Divisor(l.units);
  if (s.terms == 0) return true;
  const int64_t all_chunks = up(s.terms, p.terms), groups = up(int64_t(l.units) * s.columns, p.columns);
  l.chunks = static_cast<int>(up(all_chunks, l.term_groups));
  if (l.chunks > p.chunks) return false;
  l.term_groups = static_cast<int>(up(all_chunks, l.chunks));
  l.all_chunks = static_cast<int>(all_chunks);
  l.column_groups = static_cast<int>(groups);
  l.columns = l.column_groups * p.columns;
  l.by_column_groups = Divisor(l.column_groups);
  l.by_panels = Divisor(l.panels());
  l.by_loads = Divisor(static_cast<int>(all_chunks * p.terms / p.load));
  l.staged = static_cast<int>(all_chunks * p.terms + p.pad);
  const int64_t panel = int64_t(kChunkBytes) * l.chunks, held = std::max(l.panels() - kWarps, 0) * panel;
  const int64_t row = int64_t(l.staged + l.term_groups * l.columns) * p.bytes;
  const int64_t fit = (card.shared - held) / row;
  auto room_for = [&](int64_t rows) { return rows > p.fewest ? up(rows, p.rows) * p.rows : p.fewest; };
  const int64_t rows =
      room_for(slice) <= fit ? slice : std::min<int64_t>(slice, std::max<int64_t>(fit / p.rows * p.rows, p.fewest));
  l.pass = static_cast<int>(rows);
  l.room = static_cast<int>(room_for(rows));
  l.panels_at = std::max<int64_t>(l.room * row, kWarps * p.scratch);
  l.shared = l.panels_at + held;
  return l.shared <= card.shared;
}

// Calls f with each candidate that fits; some come twice.
template <class F> void over_layouts(const Shape& s, const Panel& p, const Card& card, F&& f) {
  if (s.rows < 1 || s.units < 1) return;
  const int64_t chunks = up(s.terms, p.terms), fewest = up(chunks, p.chunks);
  if (std::max({s.terms, s.units, s.rows}) > (1 << 20)) return;  // what follows is in int
  const int whole = p.columns / std::gcd(p.columns, s.columns);  // units whose columns fill panels
  for (int64_t row_slices = 1; row_slices <= std::min<int64_t>(s.rows, card.multiprocessors); row_slices *= 2)
    for (int64_t spread = card.multiprocessors / row_slices; spread > 0; spread /= 2)
      for (int64_t units : {up(s.units, spread), up(up(s.units, spread), whole) * whole}) {
        const int64_t groups = up(units * s.columns, p.columns);
        for (int64_t terms : {fewest, std::clamp<int64_t>(kWarps / groups, fewest, std::max(chunks, fewest))}) {
          Layout l{};
          l.row_slices = static_cast<int>(row_slices);
          l.units = static_cast<int>(std::min(units, s.units));
          l.all_units = static_cast<int>(s.units);
          l.unit_slices = static_cast<int>(up(s.units, l.units));
          l.term_groups = static_cast<int>(terms);
          if (complete(l, s, p, card)) f(l);
        }
      }
}

thread_local long made = 0;

Layout search(const Shape& s, const Panel& p, const Card& card) {
  ++made;
  Layout best{};
  over_layouts(s, p, card, [&](Layout& l) {
    l.cycles = cost(l, s, p);
    if (!best.blocks || l.cycles < best.cycles) best = l;
  });
  return best;
}

}  // namespace

long searches() { return made; }

Layout lay_out(const Shape& s, const Panel& p, const Card& card) {
  struct Found {
    Shape shape;
    Panel panel;
    Card card;
    Layout layout;
  };
  // As many as the layers of a large model have, both ways: the oldest makes room.
  static thread_local std::array<Found, 64> kept{};
  static thread_local size_t next = 0;
  for (const Found& found : kept)
    if (found.shape == s && found.panel == p && found.card == card) return found.layout;
  Found& place = kept[next++ % kept.size()];
  place = {s, p, card, search(s, p, card)};
  return place.layout;
}

}  // namespace rnn::cuda
