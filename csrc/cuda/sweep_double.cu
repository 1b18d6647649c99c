#include "sweep.cuh"

template const rnn::cuda::Kernels<double>& rnn::cuda::kernels();
