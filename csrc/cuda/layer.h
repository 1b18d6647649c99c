// Layers and the Neural Turing Machine on a card: what of them the files of ops call.
#pragma once
#include <c10/core/Device.h>

#include <string>

#include "../walk/ntm.h"

namespace rnn::cuda {

// `call` points to the card's memory, but for its timeline, which is the host's; `card` is the same on the card.
// Both say which way they walked.
template <class Real>
std::string forward(int cell, const Facts&, const Call<Real>& call, const Timeline& card, c10::Device);
template <class Real>
std::string backward(int cell, const Facts&, const Call<Real>& call, const Timeline& card, c10::Device);

// Whether there is a walk in one launch for this cell.
bool has_persistent(int cell);

// A drawn mask of so many rows of n numbers, the same at all ticks.
template <class Real> void draw(const Call<Real>& call, MaskKind, int64_t rows, int64_t n, Real* to);

// A Neural Turing Machine's walk, likewise. Says where the memories were and how much a row takes.
template <class Real>
std::string ntm_forward(const Facts&, const NtmCall<Real>& call, const Timeline& card, c10::Device);
template <class Real>
std::string ntm_backward(const Facts&, const NtmCall<Real>& call, const Timeline& card, c10::Device);

}  // namespace rnn::cuda
