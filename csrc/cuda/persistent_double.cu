#include "persistent.cuh"

template const rnn::cuda::Persistent<double>* rnn::cuda::persistent_forward(int);
template const rnn::cuda::Persistent<double>* rnn::cuda::persistent_backward(int);
