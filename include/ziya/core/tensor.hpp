// SPDX-License-Identifier: Apache-2.0
// Memory with a shape, owned.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>

#include "ziya/config.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/shape.hpp"
#include "ziya/core/view.hpp"

ZIYA_NAMESPACE_BEGIN

/// Gives back what `Memory<Device>` allocated.
template <class Device>
struct ReleaseMemory {
  void operator()(void* memory) const noexcept { Memory<Device>::release(memory); }
};

/// Row-major, contiguous, movable; copying is explicit. Elements are not initialised.
template <class T, class Device = Cpu>
class Tensor {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Tensor() = default;
  explicit Tensor(const Shape& shape)
      : data_(Memory<Device>::allocate(static_cast<std::size_t>(shape.elements()) * sizeof(T))),
        shape_(shape) {}

  [[nodiscard]] T* data() { return static_cast<T*>(data_.get()); }
  [[nodiscard]] const T* data() const { return static_cast<const T*>(data_.get()); }
  [[nodiscard]] const Shape& shape() const { return shape_; }
  [[nodiscard]] std::int64_t elements() const { return shape_.elements(); }
  [[nodiscard]] bool empty() const { return data_ == nullptr; }

  [[nodiscard]] View<T, Device> view() { return {data(), shape_}; }
  [[nodiscard]] View<const T, Device> view() const { return {data(), shape_}; }
  operator View<T, Device>() { return view(); }
  operator View<const T, Device>() const { return view(); }

  /// A tensor with the same contents on `Target`; the only copy between devices.
  /// A backend other than the CPU provides `copy(To, void*, From, const void*, bytes)`.
  template <class Target>
  [[nodiscard]] Tensor<T, Target> to() const {
    Tensor<T, Target> result(shape_);
    copy(Target{}, result.data(), Device{}, data(),
         static_cast<std::size_t>(elements()) * sizeof(T));
    return result;
  }

 private:
  std::unique_ptr<void, ReleaseMemory<Device>> data_;  // one type for all elements
  Shape shape_{0};
};

/// Host to host.
inline void copy(Cpu, void* to, Cpu, const void* from, std::size_t bytes) {
  if (bytes != 0) std::memcpy(to, from, bytes);
}

ZIYA_NAMESPACE_END
