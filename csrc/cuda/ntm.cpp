// A Neural Turing Machine's walk on a card: one launch. Nothing here waits for the card.
#include "ntm.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>

#include <string>
#include <vector>

#include "layer.h"

namespace rnn::cuda {
namespace {

using at::Tensor;

// Bytes of shared memory that a block of this device may have.
size_t shared_memory(c10::Device device) {
  int bytes = 0;
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.has_index() ? device.index() : 0));
  return static_cast<size_t>(bytes);
}

template <class Real>
std::string walk(bool forward, const Facts& f, const NtmCall<Real>& call, const Timeline& card, c10::Device device) {
  const Machine& machine = call.machine;
  NtmStep<Real> m{f, call, Record(machine, f), {}, nullptr, nullptr, 0};
  m.c.time = card;
  m.c.time.begin = call.time.begin;
  m.c.time.end = call.time.end;
  const auto options = at::TensorOptions().dtype(c10::CppTypeToScalarType<Real>::value).device(device);
  std::vector<Tensor> held;
  auto turned = [&](const Real* p, int64_t rows, int64_t columns) {
    held.push_back(at::for_blob(const_cast<Real*>(p), {rows, columns})
                       .options(options)
                       .target_device(device)
                       .make_tensor()
                       .t()
                       .contiguous());
    return held.back().template const_data_ptr<Real>();
  };
  for (int l = 0; l < machine.layers && forward; ++l)
    m.columns[l] = turned(call.weight[l], f.gates * machine.hidden, machine.layer_width(l));
  if (machine.layers && forward) m.head_columns = turned(call.head_weight, machine.parameters(), machine.hidden);

  const NtmKernels<Real>& table = ntm_kernels<Real>();
  m.space_size = (forward ? table.forward_space : table.backward_space)(m);
  const bool fits = m.space_size + 1024 <= shared_memory(device);  // a little is static, and the system's
  if (!fits) {
    held.push_back(at::empty({call.time.batch * static_cast<int64_t>(m.space_size)}, options.dtype(at::kByte)));
    m.space = static_cast<char*>(held.back().mutable_data_ptr());
  }
  (forward ? table.forward : table.backward)(m, static_cast<cudaStream_t>(at::cuda::getCurrentCUDAStream()));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return "one block a row, " + std::to_string((m.space_size + 1023) / 1024) + " KiB in " +
         (fits ? "shared" : "global") + " memory";
}

}  // namespace

template <class Real>
std::string ntm_forward(const Facts& f, const NtmCall<Real>& call, const Timeline& card, c10::Device device) {
  return walk(true, f, call, card, device);
}
template <class Real>
std::string ntm_backward(const Facts& f, const NtmCall<Real>& call, const Timeline& card, c10::Device device) {
  return walk(false, f, call, card, device);
}

#define RNN_INSTANTIATE(Real)                                                                         \
  template std::string ntm_forward(const Facts&, const NtmCall<Real>&, const Timeline&, c10::Device); \
  template std::string ntm_backward(const Facts&, const NtmCall<Real>&, const Timeline&, c10::Device);
RNN_INSTANTIATE(float)
RNN_INSTANTIATE(double)

}  // namespace rnn::cuda
