// SPDX-License-Identifier: Apache-2.0
// Reads the header of a GGUF file: metadata, then names, shapes, types and places of all tensors.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/shape.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/gguf_metadata.hpp"
#include "ziya/io/gguf_types.hpp"
#include "ziya/io/tensor_entry.hpp"

ZIYA_NAMESPACE_BEGIN

namespace gguf {

inline constexpr std::string_view magic = "GGUF";
inline constexpr std::int64_t default_alignment = 32;

/// What a header may cost; the largest vocabularies in use take a few megabytes.
inline constexpr std::int64_t max_header_bytes = std::int64_t{256} << 20;
inline constexpr std::uint64_t max_keys = 1u << 16, max_tensors = 1u << 17;
inline constexpr std::uint64_t max_key_bytes = 65535, max_name_bytes = 256;
inline constexpr std::uint32_t max_dimensions = 4;
inline constexpr int max_nesting = 4;

struct Contents {
  std::uint32_t version = 3;
  Metadata metadata;
  std::vector<TensorEntry> tensors;  ///< in the file's order, with the file's names
};

/// Whether the path is a file that begins as a GGUF file does. @throws nothing
inline bool is_gguf(const std::filesystem::path& path) noexcept {
  try {
    const InputFile file(path);
    return file.size() >= 4 && file.read_text(0, 4) == magic;
  } catch (...) {
    return false;
  }
}

/// Checks the whole header; reads no data. Versions 2 and 3, little-endian.
/// Source: the GGUF specification of the ggml project
/// @throws FormatError ZIYA-250 … 254, IoError
Contents read_contents(const InputFile& file);

#if ZIYA_DEFINITIONS
namespace detail {

/// Reads a header front to back through a window; nothing is taken that the file does not hold.
class HeaderReader {
 public:
  explicit HeaderReader(const InputFile& file)
      : file_(file), end_(std::min(file.size(), max_header_bytes)) {}

  [[nodiscard]] std::int64_t at() const { return at_; }
  [[nodiscard]] std::uint64_t left() const { return static_cast<std::uint64_t>(end_ - at_); }

  template <class T>
  T number() {
    char bytes[sizeof(T)];
    need(sizeof(T), "a number");
    copy(bytes, sizeof(T));
    return load_number<T>(bytes);
  }
  /// The next `size` bytes, appended.
  void append(std::string& out, std::uint64_t size, const std::string& what) {
    need(size, what);
    const std::size_t before = out.size();
    out.resize(before + static_cast<std::size_t>(size));
    copy(out.data() + before, static_cast<std::size_t>(size));
  }
  std::string text(std::uint64_t most, const std::string& what) {
    const auto size = number<std::uint64_t>();
    if (size > most) {
      refuse(what + " of " + std::to_string(size) + " bytes, expected at most " +
             std::to_string(most));
    }
    std::string result;
    append(result, size, what);
    return result;
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw FormatError("ZIYA-251",
                      file_.name() + ": " + why + " (before byte " + std::to_string(at_) + ")");
  }
  void need(std::uint64_t size, const std::string& what) const {
    if (size <= left()) return;
    if (end_ == max_header_bytes && file_.size() > end_) {
      refuse("its header is larger than 256 MiB");
    }
    refuse(what + " of " + std::to_string(size) + " bytes with " + std::to_string(left()) +
           " left (truncated or still being written?)");
  }

 private:
  void copy(char* out, std::size_t size) {
    constexpr std::size_t window_bytes = std::size_t{1} << 16;
    while (size > 0) {
      const auto offset = static_cast<std::size_t>(at_ - window_begin_);
      if (offset >= window_.size()) {
        if (size >= window_bytes) {  // straight into place
          file_.read(at_, std::as_writable_bytes(std::span(out, size)));
          at_ += static_cast<std::int64_t>(size);
          return;
        }
        window_begin_ = at_;
        window_ = file_.read_text(
            at_, std::min<std::int64_t>(end_ - at_, static_cast<std::int64_t>(window_bytes)));
        continue;
      }
      const std::size_t part = std::min(size, window_.size() - offset);
      std::copy_n(window_.data() + offset, part, out);
      out += part, size -= part, at_ += static_cast<std::int64_t>(part);
    }
  }

  const InputFile& file_;
  std::int64_t end_, at_ = 0;
  std::string window_;
  std::int64_t window_begin_ = 0;
};

inline ValueType read_type(HeaderReader& in, const std::string& key) {
  const auto number = in.number<std::uint32_t>();
  if (number >= value_type_count) {
    in.refuse("the value of " + key + " has the unknown type " + std::to_string(number));
  }
  return static_cast<ValueType>(number);
}

/// Appends the elements of an array as they stand.
inline void read_elements(HeaderReader& in, std::string& out, ValueType element,
                          std::uint64_t count, const std::string& key, int depth) {
  if (const std::uint64_t size = bytes_of(element); size != 0) {
    if (count > in.left() / size) in.need(std::numeric_limits<std::uint64_t>::max(), key);
    return in.append(out, count * size, key);
  }
  if (depth == max_nesting) in.refuse(key + " is an array nested too deeply");
  for (std::uint64_t i = 0; i < count; ++i) {
    if (element == ValueType::text) {
      const auto size = in.number<std::uint64_t>();
      append_number(out, size);
      in.append(out, size, key);
    } else {
      const ValueType inner = read_type(in, key);
      const auto inner_count = in.number<std::uint64_t>();
      append_number(out, static_cast<std::uint32_t>(inner));
      append_number(out, inner_count);
      read_elements(in, out, inner, inner_count, key, depth + 1);
    }
  }
}

inline Value read_value(HeaderReader& in, const std::string& key) {
  Value value;
  value.type = read_type(in, key);
  if (value.type == ValueType::text) {
    value.bytes = in.text(static_cast<std::uint64_t>(max_header_bytes), key);
  } else if (value.type == ValueType::array) {
    value.element = read_type(in, key);
    value.count = in.number<std::uint64_t>();
    read_elements(in, value.bytes, value.element, value.count, key, 0);
  } else {
    in.append(value.bytes, bytes_of(value.type), key);
  }
  return value;
}

[[noreturn]] inline void refuse_tensor(const InputFile& file, const std::string& tensor,
                                       const std::string& why) {
  throw FormatError("ZIYA-253", file.name() + ": tensor " + tensor + ": " + why);
}

/// The offset of the entry is still relative to the data.
inline TensorEntry read_tensor(HeaderReader& in, const InputFile& file) {
  TensorEntry entry;
  entry.name = in.text(max_name_bytes, "the name of a tensor");
  const auto rank = in.number<std::uint32_t>();
  if (rank > max_dimensions) {
    refuse_tensor(file, entry.name, std::to_string(rank) + " dimensions, expected at most 4");
  }
  std::vector<std::int64_t> extents(rank);
  for (std::uint32_t i = rank; i-- > 0;) {  // the file names the fastest dimension first
    const auto extent = in.number<std::uint64_t>();
    if (extent > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      refuse_tensor(file, entry.name, "an extent of " + std::to_string(extent));
    }
    extents[i] = static_cast<std::int64_t>(extent);
  }
  try {
    entry.shape = Shape(std::span<const std::int64_t>(extents));
  } catch (const ShapeError&) {
    refuse_tensor(file, entry.name, "more elements than can be addressed");
  }
  const auto number = in.number<std::uint32_t>();
  const TensorType* type = tensor_type(number);
  if (type == nullptr || !type->dtype) {
    throw FormatError(
        "ZIYA-254",
        file.name() + ": tensor " + entry.name + " has type " +
            (type == nullptr ? "number " + std::to_string(number) : std::string(type->name)) +
            ", which is not supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, "
            "Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL are)");
  }
  entry.dtype = *type->dtype;
  const std::int64_t row = rank == 0 ? 1 : extents.back();
  if (row % info(entry.dtype).block_elements != 0) {
    refuse_tensor(file, entry.name,
                  "rows of " + std::to_string(row) + " elements are no whole blocks of " +
                      std::string(type->name));
  }
  const auto offset = in.number<std::uint64_t>();
  if (offset > static_cast<std::uint64_t>(file.size())) {
    refuse_tensor(file, entry.name,
                  "lies at byte " + std::to_string(offset) + " of the data, the file has only " +
                      std::to_string(file.size()) + " bytes (truncated or still being written?)");
  }
  entry.offset = static_cast<std::int64_t>(offset);
  return entry;
}

inline std::int64_t read_alignment(const InputFile& file, const Metadata& metadata) {
  const std::int64_t alignment = metadata.integer("general.alignment").value_or(default_alignment);
  if (alignment < 1 || alignment > (1 << 20) ||
      !std::has_single_bit(static_cast<std::uint64_t>(alignment))) {
    throw FormatError("ZIYA-251", file.name() + ": general.alignment is " +
                                      std::to_string(alignment) + ", expected a power of two");
  }
  return alignment;
}

/// Every tensor lies inside the file, aligned, and in no other tensor's place.
inline void check_places(const InputFile& file, const std::vector<TensorEntry>& tensors,
                         std::int64_t data_begin, std::int64_t alignment) {
  std::vector<TensorEntry> order;
  std::set<std::string> names;
  for (const TensorEntry& entry : tensors) {
    if (!names.insert(entry.name).second) refuse_tensor(file, entry.name, "is named twice");
    if ((entry.offset - data_begin) % alignment != 0) {
      refuse_tensor(file, entry.name, "is not aligned to " + std::to_string(alignment) + " bytes");
    }
    if (entry.offset > file.size() || entry.bytes() > file.size() - entry.offset) {
      refuse_tensor(file, entry.name,
                    "its " + std::to_string(entry.bytes()) + " bytes at byte " +
                        std::to_string(entry.offset) + " reach beyond the file's " +
                        std::to_string(file.size()) + " (truncated or still being written?)");
    }
    if (entry.bytes() > 0) order.push_back(entry);
  }
  std::sort(order.begin(), order.end(), lies_before);
  for (std::size_t i = 1; i < order.size(); ++i) {
    const TensorEntry& before = order[i - 1];
    if (before.offset + before.bytes() > order[i].offset) {
      refuse_tensor(file, order[i].name, "overlaps tensor " + before.name);
    }
  }
}

}  // namespace detail

ZIYA_INLINE Contents read_contents(const InputFile& file) {
  detail::HeaderReader in(file);
  if (file.size() < 24 || in.number<std::uint32_t>() != load_number<std::uint32_t>(magic.data())) {
    throw FormatError("ZIYA-250", file.name() + ": is not a GGUF file");
  }
  Contents contents{in.number<std::uint32_t>(), Metadata(file.name()), {}};
  if (contents.version != 2 && contents.version != 3) {
    const bool swapped = contents.version != 0 && (contents.version & 0xffffu) == 0;
    throw FormatError("ZIYA-250",
                      file.name() + ": is a GGUF file " +
                          (swapped ? std::string("of a big-endian machine")
                                   : "of version " + std::to_string(contents.version)) +
                          ", expected version 2 or 3, little-endian; convert the model again");
  }
  const auto tensors = in.number<std::uint64_t>(), keys = in.number<std::uint64_t>();
  if (tensors > max_tensors) in.refuse("it announces " + std::to_string(tensors) + " tensors");
  if (keys > max_keys) in.refuse("it announces " + std::to_string(keys) + " keys");
  for (std::uint64_t i = 0; i < keys; ++i) {
    const std::string key = in.text(max_key_bytes, "a key");
    if (!contents.metadata.set(key, detail::read_value(in, key))) {
      in.refuse("the key " + key + " occurs twice");
    }
  }
  for (std::uint64_t i = 0; i < tensors; ++i) {
    contents.tensors.push_back(detail::read_tensor(in, file));
  }
  const std::int64_t alignment = detail::read_alignment(file, contents.metadata);
  const std::int64_t data_begin = (in.at() + alignment - 1) / alignment * alignment;
  for (TensorEntry& entry : contents.tensors) entry.offset += data_begin;
  detail::check_places(file, contents.tensors, data_begin, alignment);
  return contents;
}
#endif

}  // namespace gguf

ZIYA_NAMESPACE_END
