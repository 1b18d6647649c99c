// What a cell says of itself, for code that is written once for all cells.
#pragma once
#include "call.h"

namespace rnn {

template <class Cell> constexpr Facts facts_of() {
  static_assert(Cell::kGates <= kMaxGates && Cell::kStates <= kMaxStates && Cell::kNorms <= kMaxNorms);
  Facts f{.name = Cell::kName,
          .gates = Cell::kGates,
          .states = Cell::kStates,
          .saved = Cell::kSaved,
          .stages = static_cast<int>(sizeof(Cell::kStageEnd) / sizeof(int)),
          .stage_end = {},
          .split = Cell::kSplit,
          .shared = Cell::kShared,
          .projection = Cell::kProjection,
          .fed = Cell::kFed,
          .cell = Cell::kCell,
          .first_input = Cell::kFirstInput,
          .first_bias_ih = Cell::kFirstBiasIh,
          .first_bias_hh = Cell::kFirstBiasHh,
          .parameters = Cell::kParameters,
          .norm_input = Cell::kNormInput,
          .norms = Cell::kNorms,
          .groups = Cell::kGroups,
          .norm_group = {},
          .group_stage = {}};
  for (int i = 0; i < f.stages; ++i) f.stage_end[i] = Cell::kStageEnd[i];
  for (int i = 0; i < f.norms; ++i) f.norm_group[i] = Cell::kNormGroup[i];
  for (int i = 0; i < f.groups; ++i) f.group_stage[i] = Cell::kGroupStage[i];
  return f;
}

}  // namespace rnn
