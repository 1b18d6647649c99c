// Times every layout of an LSTM's walk in one launch, beside what csrc/cuda/persistent.cpp estimates: for its
// constants. Prints lines of numbers, the first names them. `bench/gpu_trial.sh --only layouts` compiles and runs it.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <set>
#include <tuple>

#include "cells/list.h"
#undef RNN_CELLS
#define RNN_CELLS(X) X(Lstm)
#include "cuda/persistent.cpp"
#include "cuda/persistent_float.cu"
#include "cuda/persistent_halves.cu"

using namespace rnn;
using namespace rnn::cuda;

namespace {

constexpr int kTicks = 50, kTimes = 2, kWeights = 4;

float* room(int64_t n) {
  float* p = nullptr;
  if (cudaMalloc(&p, n * sizeof(float)) != cudaSuccess) std::printf("no memory\n"), std::exit(1);
  cudaMemset(p, 0x3c, n * sizeof(float));  // 0.011
  return p;
}

// A call of T ticks, B rows, H units, and its scratch.
Step<float> step_of(int64_t T, int64_t B, int64_t H) {
  Step<float> m;
  std::memset(static_cast<void*>(&m), 0, sizeof m);
  m.f = facts_of<Lstm>();
  Call<float>& c = m.c;
  c.time.ticks = c.time.end = T;
  c.time.batch = c.time.tick_stride = B;
  c.inputs = c.hidden = c.outputs = c.fed = H;
  c.w_hh = room(kWeights * H * H);
  c.b_ih = c.b_hh = room(kWeights * H);
  c.first[0] = c.first[1] = room(B * H);
  c.out = room(T * B * H);
  c.grad_out = c.out;
  c.saved_numbers = c.kept(m.f).numbers(H);
  c.saved = room(T * B * c.saved_numbers);
  c.cell_clip = c.gradient_clip = INFINITY;
  m.fed_states = 1;
  m.h = room(B * H);
  m.ld_masked = (H + 3) / 4 * 4;
  m.masked = room(2 * B * m.ld_masked);
  m.state[1] = room(B * H);
  m.product = room(B * kWeights * H);
  m.projected = room(T * B * kWeights * H);
  m.carry[0] = room(B * H), m.carry[1] = room(B * H);
  m.dx = m.du = room(T * B * kWeights * H);
  return m;
}
void free_step(const Step<float>& m) {
  for (const void* p : {(const void*)m.c.w_hh, (const void*)m.c.b_ih, (const void*)m.c.first[0], (const void*)m.c.out,
                        (const void*)m.c.saved, (const void*)m.h, (const void*)m.masked, (const void*)m.state[1],
                        (const void*)m.product, (const void*)m.projected, (const void*)m.carry[0],
                        (const void*)m.carry[1], (const void*)m.dx})
    cudaFree(const_cast<void*>(p));
}

void time_all(const char* name, bool forward, const Persistent<float>& kernel, const Card& card, int B, int H) {
  const Shape shape{B, H, forward ? H : kWeights * H, forward ? kWeights : 1};
  const Step<float> m = step_of(kTicks, B, H);
  std::set<std::tuple<int, int, int>> seen;
  cudaEvent_t begin, end;
  cudaEventCreate(&begin), cudaEventCreate(&end);
  over_layouts(shape, kernel.panel, card, [&](Layout& l) {
    if (!seen.insert({l.row_slices, l.units, l.term_groups}).second || !kernel.fits(l)) return;
    float least = 1e9f;
    for (int i = 0; i < kTimes; ++i) {
      cudaEventRecord(begin);
      kernel.run(m, l, nullptr);
      cudaEventRecord(end);
      cudaEventSynchronize(end);
      float ms = 0;
      cudaEventElapsedTime(&ms, begin, end);
      least = std::min(least, ms);
    }
    if (cudaError_t error = cudaGetLastError()) std::printf("# %s\n", cudaGetErrorString(error));
    std::printf("%s %s %d %d %d %d %d %d %d %d %d %d %lld %.0f %.3f\n", name, forward ? "forward" : "backward", B, H,
                l.row_slices, l.unit_slices, l.units, l.column_groups, l.term_groups, l.chunks, l.pass, l.room,
                static_cast<long long>(l.shared), cost(l, shape, kernel.panel), 1e3 * least / kTicks);
    std::fflush(stdout);
  });
  cudaEventDestroy(begin), cudaEventDestroy(end);
  free_step(m);
}

}  // namespace

int main() {
  cudaDeviceProp p;
  if (cudaGetDeviceProperties(&p, 0) != cudaSuccess) return std::printf("no GPU\n"), 2;
  const Card card{p.multiProcessorCount, static_cast<int64_t>(p.sharedMemPerBlockOptin)};
  std::printf(
      "type direction B H row_slices unit_slices units column_groups term_groups chunks pass room shared "
      "estimate_cycles us_a_tick\n");
  for (auto [B, H] : {std::pair{1, 128},
                      {8, 128},
                      {64, 128},
                      {1, 256},
                      {8, 256},
                      {32, 256},
                      {128, 256},
                      {1, 512},
                      {16, 512},
                      {64, 512},
                      {256, 512},
                      {1, 1024},
                      {16, 1024},
                      {64, 1024},
                      {256, 1024}}) {
    time_all("float32", true, *persistent<float, true>(0), card, B, H);
    time_all("float32", false, *persistent<float, false>(0), card, B, H);
    time_all("bfloat16", true, *persistent<Bfloat16, true>(0), card, B, H);
    time_all("bfloat16", false, *persistent<Bfloat16, false>(0), card, B, H);
  }
}
