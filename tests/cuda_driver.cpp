// The kernels of csrc/cuda and the host's side of them, executed on the CPU (cuda_on_cpu/README.md) without torch or
// Python, for sanitizers: every cell with every option, and the Neural Turing Machine, held against the core's scalar
// kernels in float64. Shapes and options are those of core_driver_*.h, and a few that fill more than a block.
// Arguments: "thin", a few cases that still meet every kernel with several warps and blocks; "stop" at the first
// failure; "layers", names of cells, "ntm": only those. Exits 1 if anything disagrees.
#include "core_driver_layers.h"
#include "core_driver_machines.h"
#include "cuda/layer.h"
#include "cuda/ntm.h"
#include "cuda/persistent.h"

// Layers and machines run in float alone: whoever asks for double has gone astray.
namespace rnn::cuda {
template <class Real> const Kernels<Real>& kernels() { std::abort(); }
template <class Weight, bool forward> const Persistent<typename RealOf<Weight>::type>* persistent(int) { std::abort(); }
template <class Real> const NtmKernels<Real>& ntm_kernels() { std::abort(); }
template const Kernels<double>& kernels();
RNN_PERSISTENT(, double)
template const NtmKernels<double>& ntm_kernels();
}  // namespace rnn::cuda

namespace driver {
namespace {

constexpr int kShared = 101376;  // bytes of shared memory
constexpr double kFloat = std::numeric_limits<float>::epsilon();

// A timeline whose lists are as long as they are, and no longer.
class Lists {
 public:
  Timeline time;
  explicit Lists(const Timeline& from) : time(from) {
    for (auto [list, n] : {std::pair(&time.rows_at, time.ticks),
                           {&time.frame_at, time.ticks + 1},
                           {&time.tick_place, time.ticks},
                           {&time.row_place, time.batch},
                           {&time.order, time.batch}})
      if (*list) *list = lists_.emplace_back(*list, *list + n).data();
  }

 private:
  std::vector<std::vector<int64_t>> lists_;
};

// What the card is taken to be, and how layers walk on it.
void pretend(int multiprocessors, int shared, const char* path) {
  setenv("CUDA_ON_CPU_SMS", std::to_string(multiprocessors).c_str(), 1);
  setenv("CUDA_ON_CPU_SHARED_OPTIN", std::to_string(shared).c_str(), 1);
  setenv("RNNKERNELS_CUDA_ALGO", path, 1);
}
int in_one_launch = 0, on_tensor_cores = 0;  // calls that walked all ticks in one; those of halves
Halves halves = Halves::kNone;               // what recurrent weights are said to be

void layer_on_card(Pass pass, const layers::Case& c, const Call<float>& call) {
  Lists card(call.time);
  Call<float> seeded = call;
  const auto seed = static_cast<int64_t>(call.seed);
  seeded.seed_at = &seed;
  seeded.seed = 0;
  seeded.w_hh_halves = halves;
  auto run = pass == Pass::kForward ? cuda::forward<float> : cuda::backward<float>;
  const std::string path = run(c.cell, c.facts(), seeded, card.time, {});
  in_one_launch += path.starts_with("persistent");
  on_tensor_cores += path.ends_with("tensor cores");
}
void machine_on_card(bool forward, const NtmCall<float>& call, const Facts& f) {
  Lists card(call.time);
  (forward ? cuda::ntm_forward<float> : cuda::ntm_backward<float>)(f, call, card.time, {});
}

struct OnCard {
  OnCard() { layers::runs_instead<float> = &layer_on_card, machines::runs_instead<float> = &machine_on_card; }
  ~OnCard() { layers::runs_instead<float> = nullptr, machines::runs_instead<float> = nullptr; }
};

bool stops = false;
void failed(const std::string& text, const std::string& what) {
  ++failures;
  std::printf("FAILED %s: %s\n", text.c_str(), what.c_str());
}

// Runs a check on the card; what is thrown there is a failure.
template <class F> void on_card(const std::string& text, F&& f) {
  OnCard here;
  try {
    f();
  } catch (const std::exception& e) {
    failed(text, e.what());
  }
  if (stops && failures) std::exit(1);
}
void expect(const std::string& text, const char* what, const Apart& apart, double limit) {
  ++checks;
  if (!apart.within(limit)) failed(text, what + (": " + apart.text(kFloat)));
}

// ------------------------------------------------------------------------------------------------------------- layers

// Units that need several blocks, and rows that are staged at once.
const layers::Shape kSpread{.T = 3, .B = 3, .I = 2, .H = 66, .reverse = true};

void check(const layers::Case& c, bool thoroughly) {
  using namespace layers;
  Places p(c);
  Numbers at(c, p);
  for (double& w : at.tensors[kWHh])
    w = std::ldexp(std::nearbyint(std::ldexp(w, 7 - std::ilogb(w))), std::ilogb(w) - 7);
  const Run core{Isa::kScalar, {1, 1, true, c.shape.T}};
  Inputs<double> wide(c, p, at);
  Results<double> right = wide.forward(core, true);
  wide.backward(core, right, true, true);
  Inputs<float> inputs(c, p, at);
  auto compare = [&](const std::string& text, double eps = kFloat) {
    on_card(text, [&] {
      Results<float> r = inputs.forward(core, true);
      inputs.backward(core, r, true, true);
      expect(text, "differs from the core", layers::distance(r, right), 64 * eps);
      if (!thoroughly) return;
      Results<float> again = inputs.forward(core, false);
      again.saved = std::make_unique<Tensor<float>>(*r.saved);
      inputs.backward(core, again, true, true);
      expect(text, "depends on what is saved or on the order of threads", layers::distance(again, r), 0);
      if (c.shape.T > 1)
        expect(text, "differs by pieces", layers::distance(inputs.pieces(core, (c.shape.T + 1) / 2), right), 128 * eps);
    });
  };
  pretend(4, kShared, "tick");
  compare(c.text());
  if (!cuda::persistent<float, true>(c.cell) || c.shape.P) return;
  // Rows dealt to blocks, or all with one; memory that holds all rows, or some at a time; units that several blocks
  // share; sums in three parts, some of whose weights are in shared memory.
  static const std::pair<int, int> kCards[] = {{4, kShared}, {1, kShared}, {3, 5000}, {7, 12000}};
  static int number = 0;
  const auto [multiprocessors, shared] = c.shape.H == kSpread.H ? std::pair(4, 12000)
                                         : c.shape.H > 256      ? std::pair(8, 232448)
                                                                : kCards[number++ % (thoroughly ? 4 : 2)];
  const int gates = c.facts().gates_of(0), states = static_cast<int>(c.fed() / c.shape.H);
  auto walk = [&](const std::string& text, const cuda::Panel& panel, double eps) {
    for (cuda::Shape product : {cuda::Shape{c.shape.B, c.shape.H, c.fed(), gates},
                                {c.shape.B, c.shape.H, c.fed() ? gates * c.shape.H : 0, std::max(states, 1)}})
      if (!cuda::lay_out(product, panel, {multiprocessors, shared}).blocks) return;  // it does not fit
    pretend(multiprocessors, shared, "persistent");
    compare(c.text() + text + " on " + std::to_string(multiprocessors) + " multiprocessors", eps);
  };
  walk(", in one launch", cuda::kFmaPanel<float>, kFloat);
  if (!c.fed()) return;
  halves = number % 2 ? Halves::kBfloat16 : Halves::kFloat16;
  walk(", on tensor cores", cuda::tensor_panel(80), 16 * kFloat);  // rows are kept to 16 bits and more
  halves = Halves::kNone;
}

// A drawn mask of several rows, as the core draws it.
void check_draw() {
  constexpr int64_t kRows = 5, kNumbers = 37;
  Call<float> c{};
  c.seed = 0x9E3779B97F4A7C15u;
  c.stream = 7;
  Mask<float>& m = c.masks[kDropWeight];
  m.source = Mask<float>::kDrawn;
  m.probability = 0.375;
  m.row = kNumbers;
  Block<float> drawn = block<float>(kRows * kNumbers), right = block<float>(kRows * kNumbers);
  for (int64_t row = 0; row < kRows; ++row)
    kernels<float>(Isa::kScalar)
        .draw(kDropWeight, m, c.seed, c.stream, 0, row, 0, kNumbers, right->data() + row * kNumbers);
  on_card("draw", [&] { cuda::draw(c, kDropWeight, kRows, kNumbers, drawn->data()); });
  Apart apart;
  apart.see("mask ", 0, distance(drawn, right));
  expect("draw", "differs from the core", apart, 0);
}

// Rows that fill more than a block, and a batch that fills several.
const std::vector<layers::Shape> kWideShapes{
    {.T = 2, .B = 3, .I = 131, .H = 140},
    {.T = 2, .B = 2, .I = 2, .H = 262, .reverse = true},
    {.T = 3, .B = 9, .I = 2, .H = 33, .layout = layers::kPadded, .lengths = {2, 3, 0, 3, 1, 3, 2, 3, 3}},
};
const std::vector<layers::Shape> kWideProjections{
    {.T = 2, .B = 3, .I = 2, .H = 133, .P = 130},
    {.T = 3, .B = 3, .I = 2, .H = 5, .P = 9},
    {.T = 3, .B = 9, .I = 2, .H = 35, .P = 33, .layout = layers::kFlat, .lengths = {2, 3, 0, 3, 1, 3, 2, 3, 3}},
};

void check_layer(int cell, bool thoroughly) {
  using namespace layers;
  const bool projects = cell_facts(cell).projection;
  const size_t last = kOptions.size() - 1;
  if (!thoroughly) {
    // All that an option may ask for, over rows of unequal length and dense ones the other way round.
    for (const Options* o : {&kOptions[last - 2], &kOptions[10]}) {
      check({cell, o == &kOptions[10] ? kSpread : kWideShapes[2], *o}, false);
      if (projects) check({cell, kWideProjections.back(), *o}, false);
    }
    return;
  }
  for (size_t i = 0; i < kOptions.size(); ++i) {
    check({cell, kShapes[(i + cell) % kShapes.size()], kOptions[i]}, true);
    if (projects) check({cell, kProjections[i % kProjections.size()], kOptions[i]}, true);
  }
  for (size_t i = 0; i < kWideShapes.size(); ++i) check({cell, kWideShapes[i], kOptions[last - 1 - i]}, true);
  for (size_t i : {0, 4, 10}) check({cell, kSpread, kOptions[i]}, true);
  for (size_t i = 0; i < kWideProjections.size() && projects; ++i)
    check({cell, kWideProjections[i], kOptions[last - 2 - i]}, true);
}

// ----------------------------------------------------------------------------------------------------------- machines

void check(const machines::Case& c, bool shared, bool thoroughly) {
  using namespace machines;
  Places p(c);
  Numbers at(c, p);
  const Way core{Isa::kScalar, 1, true, false};
  const int64_t T = c.size.T;
  const std::string text = c.text() + (shared ? ", shared memory" : ", global memory");
  Results<double> right = Inputs<double>(c, p, at).both(core, T);
  pretend(4, shared ? kShared : 2048, "auto");
  on_card(text, [&] {
    Inputs<float> inputs(c, p, at);
    expect(text, "differs from the core", machines::distance(inputs.both(core, T), right), kRoundings * kFloat);
    if (thoroughly && T > 1)
      expect(text, "differs by pieces", machines::distance(inputs.both(core, (T + 1) / 2), right), kRoundings * kFloat);
  });
}

// More rows of the memory, gates, inputs than a block has threads; more columns than it has warps.
const std::vector<machines::Size> kWideSizes{
    {.T = 2, .B = 2, .I = 3, .H = 70, .N = 270, .M = 3},
    {.T = 5, .B = 2, .I = 260, .H = 5, .N = 35, .M = 11},
};

void check_machines(bool thoroughly) {
  using namespace machines;
  if (!thoroughly) {
    const Size small{.T = 2, .B = 2, .I = 2, .H = 3, .N = 17, .M = 9};
    for (size_t i : {1, 2}) check(Case(kConventions[i], small), i % 2, false);
    return;
  }
  for (size_t i = 0; i < kConventions.size(); ++i)
    check(Case(kConventions[i], kSizes[(i + 4) % kSizes.size()]), i % 2, true);
  for (size_t i = 0; i < kWideSizes.size(); ++i) check(Case(kConventions[i], kWideSizes[i]), i % 2, false);
}

}  // namespace
}  // namespace driver

int main(int argc, char** argv) {
  using namespace driver;
  bool thoroughly = true;
  std::vector<std::string> only;
  for (std::string word : std::vector<std::string>(argv + 1, argv + argc))
    word == "thin" ? void(thoroughly = false) : word == "stop" ? void(stops = true) : only.push_back(word);
  auto wanted = [&](const char* name) {
    return only.empty() || std::find(only.begin(), only.end(), name) != only.end();
  };
  if (wanted("layers")) check_draw();
  for (int cell = 0; cell < cell_count(); ++cell)
    if (wanted("layers") || wanted(cell_facts(cell).name)) check_layer(cell, thoroughly);
  const int of_layers = checks;
  if (wanted("ntm")) check_machines(thoroughly);
  std::printf("%d checks of layers, %d calls in one launch, %d on tensor cores, %d checks of machines, %d failures\n",
              of_layers, in_one_launch, on_tensor_cores, checks - of_layers, failures);
  return failures ? 1 : 0;
}
