#include "persistent.cuh"

template const rnn::cuda::Persistent<float>* rnn::cuda::persistent_forward(int);
template const rnn::cuda::Persistent<float>* rnn::cuda::persistent_backward(int);
