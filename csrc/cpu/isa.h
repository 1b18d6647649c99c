// Which instruction sets were built in, which this machine has, which one runs.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace rnn {

enum class Isa { kScalar, kAvx2, kAvx512 };
inline constexpr int kIsas = 3;

const char* isa_name(Isa);
std::vector<Isa> built_isas();          // worst first
std::vector<Isa> available_isas();      // built, and this machine has it
Isa current_isa();                      // throws std::runtime_error for a bad RNNKERNELS_ISA
void set_isa(const std::string& name);  // empty: RNNKERNELS_ISA or the best. Throws std::invalid_argument

const Facts& cell_facts(int cell);
int cell_count();

const Facts& controller_facts(int controller);
int controller_count();

template <class Real> const Kernels<Real>& kernels(Isa);
template <class Real> const NtmKernels<Real>& ntm_kernels(Isa isa) { return kernels<Real>(isa).ntm(); }

}  // namespace rnn
