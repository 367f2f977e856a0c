// SPDX-License-Identifier: Apache-2.0
// The tensors of a source with their elements rounded to another floating-point type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

namespace detail {

template <class From>
void round_elements(DType to, std::span<std::byte> out, const std::byte* in, std::size_t count) {
  const auto each = [&]<class To>(To (*round)(float)) {
    for (std::size_t i = 0; i < count; ++i) {
      From value;
      std::memcpy(&value, in + i * sizeof(From), sizeof value);
      const To rounded = round(to_float(value));
      std::memcpy(out.data() + i * sizeof(To), &rounded, sizeof rounded);
    }
  };
  if (to == DType::f16) return each(&to_half);
  if (to == DType::bf16) return each(&to_bfloat16);
  each(+[](float value) { return value; });
}

}  // namespace detail

/// Whether TypedSource converts between the two: f32, f16 and bf16 among one another.
constexpr bool converts(DType from, DType to) {
  return from == to || (from <= DType::bf16 && to <= DType::bf16);
}

/// y = round(x), to nearest, ties to even. Widening is exact.
class TypedSource final : public TensorSource {
 public:
  /// @param type_of the type that a tensor is to have
  /// @throws ArgumentError ZIYA-608 naming the tensor whose type cannot be converted
  TypedSource(std::shared_ptr<const TensorSource> source,
              const std::function<DType(const TensorSpec&)>& type_of)
      : source_(std::move(source)), tensors_(source_->tensors()) {
    for (TensorSpec& tensor : tensors_) {
      const DType to = type_of(tensor);
      if (!converts(tensor.dtype, to)) {
        throw ArgumentError("ZIYA-608", "convert: tensor " + tensor.name + " is " +
                                            std::string(ziya::name(tensor.dtype)) +
                                            ", which is not converted to " +
                                            std::string(ziya::name(to)));
      }
      tensor.dtype = to;
    }
  }

  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return tensors_; }
  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const DType from = source_->tensors().at(index).dtype, to = tensors_.at(index).dtype;
    if (from == to) return source_->read(index, first, out);
    const std::size_t count = out.size() / static_cast<std::size_t>(info(to).block_bytes);
    std::vector<std::byte> stored(count * static_cast<std::size_t>(info(from).block_bytes));
    source_->read(index, first, stored);
    if (from == DType::f32) return detail::round_elements<float>(to, out, stored.data(), count);
    if (from == DType::f16) return detail::round_elements<Half>(to, out, stored.data(), count);
    detail::round_elements<BFloat16>(to, out, stored.data(), count);
  }

 private:
  std::shared_ptr<const TensorSource> source_;
  std::vector<TensorSpec> tensors_;
};

ZIYA_NAMESPACE_END
