// Stands for torch's header of this name, in programs without torch: what the host's side of csrc/cuda says to tensors,
// in plain loops. Tensors have one or two dimensions and lie on the CPU; what `empty` gives is NaN in every byte, and
// an allocation of its own, so that AddressSanitizer sees one past its end. What torch would resize or broadcast is
// thrown.
#pragma once
#include <c10/core/Device.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define TORCH_CHECK(condition, ...) at::expect(condition, #condition)

namespace c10 {

enum class ScalarType { Byte, Int, Long, Float, Double };
template <class T> struct CppTypeToScalarType;
template <> struct CppTypeToScalarType<uint8_t> {
  static constexpr ScalarType value = ScalarType::Byte;
};
template <> struct CppTypeToScalarType<int> {
  static constexpr ScalarType value = ScalarType::Int;
};
template <> struct CppTypeToScalarType<int64_t> {
  static constexpr ScalarType value = ScalarType::Long;
};
template <> struct CppTypeToScalarType<float> {
  static constexpr ScalarType value = ScalarType::Float;
};
template <> struct CppTypeToScalarType<double> {
  static constexpr ScalarType value = ScalarType::Double;
};

inline constexpr int autocast_dispatch_keyset = 0;
namespace impl {
struct ExcludeDispatchKeyGuard {
  explicit ExcludeDispatchKeyGuard(int) {}
  ExcludeDispatchKeyGuard(const ExcludeDispatchKeyGuard&) = delete;
};
}  // namespace impl

}  // namespace c10

namespace at {

using c10::ScalarType;
inline constexpr ScalarType kByte = ScalarType::Byte, kInt = ScalarType::Int, kLong = ScalarType::Long,
                            kFloat = ScalarType::Float, kDouble = ScalarType::Double;

class TensorOptions {
 public:
  ScalarType type = kFloat;
  TensorOptions dtype(ScalarType of) const { return TensorOptions(of); }
  TensorOptions device(c10::Device) const { return *this; }
  c10::Device device() const { return {}; }
  TensorOptions() = default;
  explicit TensorOptions(ScalarType of) : type(of) {}
};

using Sizes = std::vector<int64_t>;

inline void expect(bool right, const char* what) {
  if (!right) throw std::logic_error(std::string("ATen's stand-in: ") + what);
}

class Tensor {
 public:
  Tensor() = default;
  Tensor(Sizes sizes, TensorOptions options) : type_(options.type), sizes_(std::move(sizes)), strides_(dense()) {
    const size_t bytes = numel() * (type_ == kByte ? 1 : type_ == kInt || type_ == kFloat ? 4 : 8);
    data_ = std::shared_ptr<char>(static_cast<char*>(std::malloc(bytes)), std::free);
    if (bytes) std::memset(data_.get(), 0xFF, bytes);
  }
  Tensor(void* data, Sizes sizes, Sizes strides, TensorOptions options)
      : type_(options.type), sizes_(std::move(sizes)), strides_(std::move(strides)) {
    if (strides_.empty()) strides_ = dense();
    data_ = std::shared_ptr<char>(static_cast<char*>(data), [](char*) {});
    defined_ = true;
  }

  bool defined() const { return defined_ || data_; }
  int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t size(int64_t d) const { return sizes_.at(d); }
  int64_t stride(int64_t d) const { return strides_.at(d); }
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t size : sizes_) n *= size;
    return n;
  }
  ScalarType scalar_type() const { return type_; }
  template <class T> T* mutable_data_ptr() const {
    expect(c10::CppTypeToScalarType<T>::value == type_, "another dtype");
    return reinterpret_cast<T*>(data_.get());
  }
  template <class T> const T* const_data_ptr() const { return mutable_data_ptr<T>(); }
  void* mutable_data_ptr() const { return data_.get(); }

  Tensor t() const {
    expect(dim() == 2, "t: two dimensions");
    Tensor of = *this;
    std::swap(of.sizes_[0], of.sizes_[1]);
    std::swap(of.strides_[0], of.strides_[1]);
    return of;
  }
  Tensor narrow(int64_t d, int64_t from, int64_t n) const {
    expect(from >= 0 && n >= 0 && from + n <= size(d), "narrow: beyond the tensor");
    Tensor of = *this;
    of.sizes_[d] = n;
    of.data_ = std::shared_ptr<char>(data_, data_.get() + from * strides_[d] * (type_ == kFloat ? 4 : 8));
    return of;
  }
  Tensor view(Sizes sizes) const {
    Tensor of = *this;
    of.sizes_ = std::move(sizes);
    of.strides_ = of.dense();
    expect(of.numel() == numel() && strides_ == dense(), "view: other numbers");
    return of;
  }
  Tensor contiguous() const;
  Tensor sum(int64_t d) const;
  Tensor& copy_(const Tensor& from);
  Tensor& add_(const Tensor& from);

  template <class T> T& at(int64_t i, int64_t j = 0) const {
    return mutable_data_ptr<T>()[i * strides_[0] + (dim() > 1 ? j * strides_[1] : 0)];
  }
  int64_t columns() const { return dim() > 1 ? sizes_[1] : 1; }

 private:
  Sizes dense() const {
    Sizes strides(sizes_.size(), 1);
    for (size_t d = sizes_.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes_[d];
    return strides;
  }
  ScalarType type_ = kFloat;
  bool defined_ = false;
  Sizes sizes_{0}, strides_{1};
  std::shared_ptr<char> data_;
};

// Calls f(Real) with a zero of the tensors' precision.
template <class F> void in_precision(const Tensor& t, F&& f) {
  expect(t.scalar_type() == kFloat || t.scalar_type() == kDouble, "float or double");
  t.scalar_type() == kFloat ? f(0.0f) : f(0.0);
}
// Calls f(number of `to`, number of `from`) for each of both.
template <class F> void over_both(const Tensor& to, const Tensor& from, F&& f) {
  expect(to.dim() == from.dim() && to.size(0) == from.size(0) && to.columns() == from.columns(), "other sizes");
  in_precision(to, [&]<class Real>(Real) {
    for (int64_t i = 0; i < to.size(0); ++i)
      for (int64_t j = 0; j < to.columns(); ++j) f(to.at<Real>(i, j), from.at<Real>(i, j));
  });
}

inline Tensor empty(Sizes sizes, TensorOptions options) { return Tensor(std::move(sizes), options); }
inline Tensor zeros(Sizes sizes, TensorOptions options) {
  Tensor t(std::move(sizes), options);
  over_both(t, t, [](auto& to, auto&) { to = 0; });
  return t;
}
inline Tensor from_blob(void* data, Sizes sizes, Sizes strides, TensorOptions options) {
  return Tensor(data, std::move(sizes), std::move(strides), options);
}
inline Tensor from_blob(void* data, Sizes sizes, TensorOptions options) {
  return from_blob(data, std::move(sizes), {}, options);
}
class TensorMaker {
 public:
  TensorMaker(void* data, Sizes sizes) : data_(data), sizes_(std::move(sizes)) {}
  TensorMaker& strides(Sizes strides) { return strides_ = std::move(strides), *this; }
  TensorMaker& options(TensorOptions options) { return options_ = options, *this; }
  TensorMaker& target_device(c10::Device) { return *this; }
  Tensor make_tensor() { return from_blob(data_, sizes_, strides_, options_); }

 private:
  void* data_;
  Sizes sizes_, strides_;
  TensorOptions options_;
};
inline TensorMaker for_blob(void* data, Sizes sizes) { return TensorMaker(data, std::move(sizes)); }

inline Tensor& Tensor::copy_(const Tensor& from) {
  over_both(*this, from, [](auto& to, auto& x) { to = x; });
  return *this;
}
inline Tensor& Tensor::add_(const Tensor& from) {
  over_both(*this, from, [](auto& to, auto& x) { to += x; });
  return *this;
}
inline Tensor Tensor::contiguous() const {
  if (strides_ == dense()) return *this;
  return Tensor(sizes_, TensorOptions(type_)).copy_(*this);
}
inline Tensor Tensor::sum(int64_t d) const {
  expect(d == 0 && dim() == 2, "sum: over the rows of a matrix");
  Tensor total = zeros({size(1)}, TensorOptions(type_));
  in_precision(total, [&]<class Real>(Real) {
    for (int64_t i = 0; i < size(0); ++i)
      for (int64_t j = 0; j < size(1); ++j) total.at<Real>(j) += at<Real>(i, j);
  });
  return total;
}

// to = beta from + left right; with beta 0 nothing of `from` is read.
inline Tensor& addmm_out(Tensor& to, const Tensor& from, const Tensor& left, const Tensor& right, double beta) {
  expect(left.dim() == 2 && right.dim() == 2 && left.size(1) == right.size(0), "a product of other sizes");
  expect(to.dim() == 2 && to.size(0) == left.size(0) && to.size(1) == right.size(1), "a product into other sizes");
  in_precision(to, [&]<class Real>(Real) {
    for (int64_t i = 0; i < to.size(0); ++i)
      for (int64_t j = 0; j < to.size(1); ++j) {
        Real sum = beta == 0 ? 0 : static_cast<Real>(beta) * from.at<Real>(i, j);
        for (int64_t k = 0; k < left.size(1); ++k) sum += left.at<Real>(i, k) * right.at<Real>(k, j);
        to.at<Real>(i, j) = sum;
      }
  });
  return to;
}
inline Tensor& mm_out(Tensor& to, const Tensor& left, const Tensor& right) { return addmm_out(to, to, left, right, 0); }
inline Tensor mm(const Tensor& left, const Tensor& right) {
  Tensor to = empty({left.size(0), right.size(1)}, TensorOptions(left.scalar_type()));
  return mm_out(to, left, right);
}

}  // namespace at
