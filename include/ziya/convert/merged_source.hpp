// SPDX-License-Identifier: Apache-2.0
// Base and delta as the one model they make, and a model and its base as the delta between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/convert/buffer_pool.hpp"
#include "ziya/convert/delta_plan.hpp"
#include "ziya/convert/half_add.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/tensor_source.hpp"

ZIYA_NAMESPACE_BEGIN

enum class MergeSign {
  add,      ///< model = base + delta
  subtract  ///< delta = model − base; the model takes the delta's place in the arguments
};

namespace detail {

/// out[i] = T(data[i]), rounded to nearest, ties to even, through fp32 as PyTorch does.
template <class T>
void round_to(std::span<T> out, const std::byte* data, DType dtype) {
  const auto each = [&]<class From>(From) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      From value;
      std::memcpy(&value, data + i * sizeof(From), sizeof value);
      float wide = 0;
      if constexpr (std::is_same_v<From, double>) {
        wide = static_cast<float>(value);
      } else {
        wide = to_float(value);
      }
      if constexpr (std::is_same_v<T, float>) {
        out[i] = wide;
      } else {
        out[i] = to_bfloat16(wide);
      }
    }
  };
  switch (dtype) {
    case DType::f32:
      return each(0.0f);
    case DType::f16:
      return each(Half{});
    case DType::bf16:
      return each(BFloat16{});
    case DType::f64:
      return each(0.0);
    default:
      throw ArgumentError(
          "ZIYA-608", "merge: " + std::string(name(dtype)) + " cannot be rounded to another type");
  }
}
template <>
inline void round_to<Half>(std::span<Half> out, const std::byte* data, DType dtype) {
  round_to_half(out, data, dtype);
}

template <class T>
void add_to(std::span<T> sum, std::span<const T> addend) {
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const float value = to_float(sum[i]) + to_float(addend[i]);
    if constexpr (std::is_same_v<T, float>) {
      sum[i] = value;
    } else {
      sum[i] = to_bfloat16(value);
    }
  }
}
template <>
inline void add_to<Half>(std::span<Half> sum, std::span<const Half> addend) {
  add_half(sum, addend, sum);
}

}  // namespace detail

/// The tensors of a plan, T being the type the plan gives each:
///   add:       T(T(base) + T(delta))        subtract:  T(T(model) − T(base))
/// and T(delta) or T(model) for those that is_copied_from_delta names. With T = f16 that is the
/// reference's rule, which loads both as fp16; with bf16 or f32 it is what the reference does when
/// it loads both as those. Every pairing of f16, bf16, f32 and f64 is taken; f64 goes through f32.
class MergedSource final : public TensorSource {
 public:
  /// @param plan of plan_delta or plan_difference for these two sources
  MergedSource(std::shared_ptr<const TensorSource> base, std::shared_ptr<const TensorSource> delta,
               std::vector<TensorSpec> plan, MergeSign sign = MergeSign::add)
      : base_(std::move(base)), delta_(std::move(delta)), tensors_(std::move(plan)), sign_(sign) {
    for (const TensorSpec& tensor : tensors_) {
      const bool copied = is_copied_from_delta(tensor.name);
      parts_.push_back({find_tensor(*delta_, tensor.name),
                        copied ? base_->tensors().size() : find_tensor(*base_, tensor.name)});
    }
  }

  [[nodiscard]] const std::vector<TensorSpec>& tensors() const override { return tensors_; }

  void read(std::size_t index, std::int64_t first, std::span<std::byte> out) const override {
    const Part& part = parts_.at(index);
    const DType to = tensors_[index].dtype;
    const bool copied = part.base == base_->tensors().size();
    if (copied && delta_->tensors().at(part.delta).dtype == to) {
      return delta_->read(part.delta, first, out);
    }
    if (to == DType::f16) return combine<Half>(part, copied, first, out);
    if (to == DType::bf16) return combine<BFloat16>(part, copied, first, out);
    combine<float>(part, copied, first, out);
  }

 private:
  struct Part {
    std::size_t delta, base;  // indices in the sources
  };

  template <class T>
  void read_as(std::span<T> out, const TensorSource& source, std::size_t index,
               std::int64_t first) const {
    const DType stored = source.tensors().at(index).dtype;
    if (stored == dtype_of<T>) return source.read(index, first, std::as_writable_bytes(out));
    const auto raw = buffers_.lend(out.size() * static_cast<std::size_t>(info(stored).block_bytes));
    source.read(index, first, raw.span());
    detail::round_to<T>(out, raw.span().data(), stored);
  }

  template <class T>
  void combine(const Part& part, bool copied, std::int64_t first, std::span<std::byte> out) const {
    const std::span<T> sum(reinterpret_cast<T*>(out.data()), out.size() / sizeof(T));
    read_as<T>(sum, *delta_, part.delta, first);
    if (copied) return;
    const auto memory = buffers_.lend(out.size());
    const std::span<T> addend(reinterpret_cast<T*>(memory.span().data()), sum.size());
    read_as<T>(addend, *base_, part.base, first);
    if (sign_ == MergeSign::subtract) negate(memory.span(), sizeof(T));
    detail::add_to<T>(sum, addend);
  }

  /// Flips the sign bit of every element: x − y = x + (−y), exactly.
  static void negate(std::span<std::byte> bytes, std::size_t element) {
    for (std::size_t i = element - 1; i < bytes.size(); i += element) bytes[i] ^= std::byte{0x80};
  }

  std::shared_ptr<const TensorSource> base_, delta_;
  std::vector<TensorSpec> tensors_;
  std::vector<Part> parts_;
  MergeSign sign_;
  mutable BufferPool buffers_;
};

ZIYA_NAMESPACE_END
