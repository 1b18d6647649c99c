#include "ntm.cuh"

template const rnn::cuda::NtmKernels<double>& rnn::cuda::ntm_kernels();
