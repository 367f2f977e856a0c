// SPDX-License-Identifier: Apache-2.0
// Finds the tensors of a file that torch.save wrote: zip archive, or the stream before PyTorch 1.6.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/shape.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/pickle.hpp"
#include "ziya/io/tensor_entry.hpp"
#include "ziya/io/zip.hpp"

ZIYA_NAMESPACE_BEGIN

namespace pytorch {

namespace detail {

inline constexpr std::int64_t max_pickle_bytes = std::int64_t{64} << 20;

/// Where the data of a storage lies in the file.
struct Span {
  std::int64_t offset, bytes;
};

/// The tensors of a state dict by name. One level of wrapping is opened: {"state_dict": {…}},
/// {"model": {…}}, {"module": {…}}. What is neither tensor nor such a dict is read over.
/// @returns name → place in machine.tensors()
inline std::map<std::string, std::size_t, std::less<>> named_tensors(const std::string& file,
                                                                     const pickle::Machine& machine,
                                                                     pickle::Id root) {
  using pickle::Kind;
  const auto refuse = [&](const std::string& why) {
    throw FormatError("ZIYA-228", file + ": " + why);
  };
  const auto collect = [&](pickle::Id dict) {
    std::map<std::string, std::size_t, std::less<>> result;
    const auto& items = machine[dict].items;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      const auto &key = machine[items[i]], &value = machine[items[i + 1]];
      if (key.kind != Kind::string || value.kind != Kind::tensor) continue;
      if (!result.emplace(key.text, static_cast<std::size_t>(value.number)).second) {
        refuse("holds tensor " + key.text + " twice");
      }
    }
    return result;
  };
  if (machine[root].kind != Kind::dict) refuse("holds no dict of tensors");
  auto tensors = collect(root);
  const auto& items = machine[root].items;
  for (std::size_t i = 0; i < items.size() && tensors.empty(); i += 2) {
    const std::string& key = machine[items[i]].text;
    if (machine[items[i + 1]].kind == Kind::dict &&
        (key == "state_dict" || key == "model" || key == "module")) {
      tensors = collect(items[i + 1]);
    }
  }
  if (tensors.empty()) refuse("holds no tensors by name");
  return tensors;
}

/// The tensor as a part of the file, checked to lie within its storage.
inline TensorEntry place(const std::string& file, const std::string& name,
                         const pickle::Tensor& tensor, const pickle::Storage& storage,
                         const Span& data) {
  const auto check = [&](bool good, const std::string& why) {
    if (!good) throw FormatError("ZIYA-225", file + ": tensor " + name + " " + why);
  };
  TensorEntry entry;
  entry.name = name;
  entry.dtype = storage.dtype;
  const std::int64_t item = entry.item_bytes(), held = data.bytes / item;
  check(storage.elements <= held, "needs a storage of " + std::to_string(storage.elements) +
                                      " elements, found " + std::to_string(held));
  check(tensor.extents.size() == tensor.strides.size(), "has not one stride per dimension");
  try {
    entry.shape = Shape(tensor.extents);
  } catch (const ShapeError&) {
    check(false, "has no shape: a negative extent, more than " + std::to_string(Shape::max_rank) +
                     " dimensions or more elements than can be addressed");
  }
  entry.offset = data.offset;
  if (entry.shape.elements() == 0) return entry;

  constexpr const char* outside = "reaches outside its storage";
  std::int64_t last = tensor.offset;
  check(last < storage.elements, outside);
  for (std::size_t i = 0; i < tensor.extents.size(); ++i) {
    const std::int64_t steps = tensor.extents[i] - 1, stride = tensor.strides[i];
    if (steps == 0 || stride == 0) continue;
    check(stride <= (storage.elements - 1 - last) / steps, outside);
    last += steps * stride;
  }
  // Strides of 0 let a few bytes claim any amount of memory.
  constexpr std::int64_t small = 1 << 20;
  check(entry.bytes() <= std::max(data.bytes, small), "repeats a storage that is much smaller");
  entry.offset += tensor.offset * item;
  const auto packed = row_major_strides(tensor.extents);
  for (std::size_t i = 0; i < packed.size(); ++i) {
    if (tensor.extents[i] != 1 && tensor.strides[i] != packed[i]) entry.strides = tensor.strides;
  }
  return entry;
}

/// @param find_storage gives the place of a storage's data, or throws
template <class F>
std::vector<TensorEntry> place_all(const std::string& file, const pickle::Machine& machine,
                                   pickle::Id root, const F& find_storage) {
  std::vector<TensorEntry> entries;
  for (const auto& [name, index] : named_tensors(file, machine, root)) {
    const pickle::Tensor& tensor = machine.tensors()[index];
    const pickle::Storage& storage = machine.storages()[tensor.storage];
    entries.push_back(place(file, name, tensor, storage, find_storage(storage)));
  }
  return entries;
}

/// `<prefix>/data.pkl`, `<prefix>/byteorder`, `<prefix>/data/<key>`
inline std::vector<TensorEntry> read_zip(const InputFile& file) {
  const std::string name = file.name();
  const auto entries = zip::read_directory(file);
  const zip::Entry* pickled = nullptr;
  for (const zip::Entry& entry : entries) {
    const auto slash = entry.name.find('/');
    if (slash == std::string::npos || entry.name.substr(slash) != "/data.pkl") continue;
    pickled = &entry;
    break;
  }
  if (pickled == nullptr) {
    throw FormatError("ZIYA-226", name +
                                      ": is a zip archive without data.pkl, so not one that "
                                      "torch.save wrote");
  }
  const std::string prefix = pickled->name.substr(0, pickled->name.find('/') + 1);
  if (const auto* order = zip::find(entries, prefix + "byteorder")) {
    const auto text = file.read_text(order->offset, std::min<std::int64_t>(order->bytes, 16));
    if (text != "little") {
      throw FormatError("ZIYA-227", name + ": was written on a machine of byte order \"" +
                                        pickle::printable(text) + "\", expected little");
    }
  }
  if (pickled->bytes > max_pickle_bytes) {
    throw FormatError("ZIYA-224", name + ": data.pkl has " + std::to_string(pickled->bytes) +
                                      " bytes, expected at most 64 MB");
  }
  pickle::Input input(file, pickled->offset, pickled->offset + pickled->bytes);
  pickle::Machine machine(input);
  const auto root = machine.run();
  return place_all(name, machine, root, [&](const pickle::Storage& storage) -> Span {
    const auto* data = zip::find(entries, prefix + "data/" + storage.key);
    if (data == nullptr) {
      throw FormatError("ZIYA-226", name + ": has no entry data/" + pickle::printable(storage.key) +
                                        " for a tensor");
    }
    return {data->offset, data->bytes};
  });
}

/// Before PyTorch 1.6: pickles of a magic number, a protocol version, facts about the machine,
/// the object and the list of storages; then, per storage, its length and its elements.
/// Source: torch/serialization.py, _legacy_save.
inline std::vector<TensorEntry> read_legacy(const InputFile& file) {
  const std::string name = file.name();
  const auto refuse = [&](const std::string& why) {
    throw FormatError("ZIYA-229", name + ": the PyTorch file (older than 1.6) " + why);
  };
  pickle::Input input(file, 0, std::min(file.size(), max_pickle_bytes));
  const auto number = [&] {
    pickle::Machine machine(input);
    return machine[machine.run()].number;
  };
  number();  // the magic number, 80 bits: recognised before
  if (const auto protocol = number(); protocol != 1001) {
    refuse("has protocol " + std::to_string(protocol) + ", expected 1001");
  }
  {
    pickle::Machine machine(input);
    const auto& facts = machine[machine.run()].items;
    for (std::size_t i = 0; i + 1 < facts.size(); i += 2) {
      if (machine[facts[i]].text == "little_endian" && machine[facts[i + 1]].number == 0) {
        throw FormatError("ZIYA-227", name + ": was written on a big-endian machine");
      }
    }
  }
  pickle::Machine machine(input);
  const auto root = machine.run();
  const auto& storages = machine.storages();
  std::map<std::string, std::size_t, std::less<>> by_key;  // of several of one key the last
  for (std::size_t i = 0; i < storages.size(); ++i) by_key[storages[i].key] = i;
  pickle::Machine keys(input);
  std::vector<std::int64_t> offsets(storages.size(), -1), lengths(storages.size(), 0);
  std::int64_t offset = 0;
  const auto ids = keys[keys.run()].items;
  offset = input.position();
  for (const auto id : ids) {
    const auto storage = by_key.find(keys[id].text);
    if (storage == by_key.end()) refuse("lists a storage that no tensor uses");
    if (offset > file.size() - 8) refuse("is truncated");
    std::array<std::byte, 8> length{};
    file.read(offset, length);
    std::uint64_t elements = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      elements |= std::to_integer<std::uint64_t>(length[i]) << (8 * i);
    }
    offset += 8;
    const std::int64_t item = info(storages[storage->second].dtype).block_bytes;
    if (elements > static_cast<std::uint64_t>((file.size() - offset) / item)) {
      refuse("is truncated");
    }
    const auto bytes = static_cast<std::int64_t>(elements) * item;
    offsets[storage->second] = offset;
    lengths[storage->second] = bytes;
    offset += bytes;
  }
  return place_all(name, machine, root, [&](const pickle::Storage& storage) -> Span {
    const std::size_t index = by_key.find(storage.key)->second;
    if (offsets[index] < 0) refuse("lacks the data of a tensor");
    return {offsets[index], lengths[index]};
  });
}

inline constexpr std::string_view zip_start = "PK\x03\x04";
/// Protocol 2, LONG1 of ten bytes: 0x1950a86a20f9469cfc6c.
inline constexpr std::string_view legacy_start =
    "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

}  // namespace detail

/// Whether a file that begins with `start` (at least 14 bytes of it) may come from torch.save.
inline bool recognises(std::string_view start) {
  return start.starts_with(detail::zip_start) || start.starts_with(detail::legacy_start);
}

/// The tensors by name, sorted, with strides where they are views; reads no data.
/// @throws FormatError ZIYA-220 … 229, IoError
inline std::vector<TensorEntry> read_contents(const InputFile& file) {
  std::array<char, 4> start{};
  file.read(0, std::as_writable_bytes(std::span(start)));
  const bool zip = std::string_view(start.data(), start.size()) == detail::zip_start;
  return zip ? detail::read_zip(file) : detail::read_legacy(file);
}

}  // namespace pytorch

ZIYA_NAMESPACE_END
