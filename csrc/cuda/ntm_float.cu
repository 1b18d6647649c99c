#include "ntm.cuh"

template const rnn::cuda::NtmKernels<float>& rnn::cuda::ntm_kernels();
