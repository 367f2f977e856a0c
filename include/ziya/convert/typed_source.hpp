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
#include "ziya/ops/quantize.hpp"

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

/// Whether TypedSource converts between the two: quantised types, f32, f16 and bf16 to the last
/// three.
constexpr bool converts(DType from, DType to) {
  return from == to || (is_plain_float(to) && (is_plain_float(from) || is_quantised(from)));
}

/// y = round(x), to nearest, ties to even. Widening is exact; quantised blocks become the floats
/// that they stand for.
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
    if (is_quantised(from)) return read_blocks(index, first, count, out);
    std::vector<std::byte> stored(count * static_cast<std::size_t>(info(from).block_bytes));
    source_->read(index, first, stored);
    if (from == DType::f32) return detail::round_elements<float>(to, out, stored.data(), count);
    if (from == DType::f16) return detail::round_elements<Half>(to, out, stored.data(), count);
    detail::round_elements<BFloat16>(to, out, stored.data(), count);
  }

 private:
  void read_blocks(std::size_t index, std::int64_t first, std::size_t count,
                   std::span<std::byte> out) const {
    const DType from = source_->tensors().at(index).dtype;
    const std::int64_t block = info(from).block_elements;
    const std::int64_t begin = first / block * block;
    const std::int64_t end = (first + static_cast<std::int64_t>(count) + block - 1) / block * block;
    std::vector<std::byte> stored(static_cast<std::size_t>(bytes_of(from, end - begin)));
    source_->read(index, begin, stored);
    std::vector<float> values(static_cast<std::size_t>(end - begin));
    quantize::dequantise_row(from, stored.data(), values.data(), end - begin);
    detail::round_elements<float>(
        tensors_[index].dtype, out,
        reinterpret_cast<const std::byte*>(&values[static_cast<std::size_t>(first - begin)]),
        count);
  }

  std::shared_ptr<const TensorSource> source_;
  std::vector<TensorSpec> tensors_;
};

ZIYA_NAMESPACE_END
