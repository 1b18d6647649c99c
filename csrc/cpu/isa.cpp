#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "../cells/list.h"
#include "../walk/facts.h"

namespace rnn {

#define RNN_DECLARE(isa)                              \
  namespace isa {                                     \
  template <class Real> const Kernels<Real>& table(); \
  extern template const Kernels<float>& table();      \
  extern template const Kernels<double>& table();     \
  }
RNN_DECLARE(scalar)
#ifdef RNN_HAVE_AVX2
RNN_DECLARE(avx2)
#endif
#ifdef RNN_HAVE_AVX512
RNN_DECLARE(avx512)
#endif
#undef RNN_DECLARE

namespace {

constexpr const char* kNames[kIsas] = {"scalar", "avx2", "avx512"};

#define RNN_FACTS(Cell) facts_of<Cell>(),
constexpr Facts kFacts[] = {RNN_CELLS(RNN_FACTS)};
constexpr Facts kControllerFacts[] = {RNN_CONTROLLERS(RNN_FACTS)};
#undef RNN_FACTS

bool machine_has(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
#ifdef RNN_SIMDE
      return machine_has(Isa::kAvx2);
#else
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
  }
  return false;
#else
  return isa == Isa::kScalar;
#endif
}

std::string names(const std::vector<Isa>& isas) {
  std::string text;
  for (Isa isa : isas) text.append(text.empty() ? "" : ", ").append(isa_name(isa));
  return text;
}

Isa by_name(const std::string& name, const char* who) {
  for (Isa isa : available_isas())
    if (name == isa_name(isa)) return isa;
  throw std::invalid_argument(std::string(who) + ": expected one of " + names(available_isas()) +
                              " (what was built and this machine has), got '" + name + "'");
}

Isa default_isa() {
  const char* wish = std::getenv("RNNKERNELS_ISA");
  if (!wish || !*wish) return available_isas().back();
  try {
    return by_name(wish, "RNNKERNELS_ISA");
  } catch (const std::invalid_argument& e) {
    throw std::runtime_error(e.what());
  }
}

std::atomic<int> current{-1};

}  // namespace

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

std::vector<Isa> built_isas() {
  std::vector<Isa> isas{Isa::kScalar};
#ifdef RNN_HAVE_AVX2
  isas.push_back(Isa::kAvx2);
#endif
#ifdef RNN_HAVE_AVX512
  isas.push_back(Isa::kAvx512);
#endif
  return isas;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (Isa isa : built_isas())
    if (machine_has(isa)) isas.push_back(isa);
  return isas;
}

Isa current_isa() {
  int isa = current.load(std::memory_order_relaxed);
  if (isa < 0) current.store(isa = static_cast<int>(default_isa()), std::memory_order_relaxed);
  return static_cast<Isa>(isa);
}

void set_isa(const std::string& name) {
  current.store(static_cast<int>(name.empty() ? default_isa() : by_name(name, "isa")), std::memory_order_relaxed);
}

const Facts& cell_facts(int cell) { return kFacts[cell]; }
int cell_count() { return static_cast<int>(std::size(kFacts)); }

const Facts& controller_facts(int controller) { return kControllerFacts[controller]; }
int controller_count() { return static_cast<int>(std::size(kControllerFacts)); }

template <class Real> const Kernels<Real>& kernels(Isa isa) {
  switch (isa) {
#ifdef RNN_HAVE_AVX512
    case Isa::kAvx512:
      return avx512::table<Real>();
#endif
#ifdef RNN_HAVE_AVX2
    case Isa::kAvx2:
      return avx2::table<Real>();
#endif
    default:
      return scalar::table<Real>();
  }
}

template const Kernels<float>& kernels(Isa);
template const Kernels<double>& kernels(Isa);

}  // namespace rnn
