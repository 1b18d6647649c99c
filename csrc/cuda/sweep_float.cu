#include "sweep.cuh"

template const rnn::cuda::Kernels<float>& rnn::cuda::kernels();
