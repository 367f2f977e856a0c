// SPDX-License-Identifier: Apache-2.0
// What a pickle of tensors may hold: plain values, containers, storages and views of storages.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/dtype.hpp"

ZIYA_NAMESPACE_BEGIN

namespace pickle {

/// Values name one another by number, so cycles and shared parts cost nothing and need no
/// recursion to destroy.
using Id = std::uint32_t;

enum class Kind : std::uint8_t {
  none,
  boolean,
  integer,
  other,  ///< read over: a float, bytes, an integer beyond 64 bits
  string,
  tuple,
  list,
  dict,
  global,
  storage,
  tensor
};

struct Value {
  Kind kind = Kind::none;
  std::int64_t number = 0;  ///< integer; place of a global, storage or tensor in its list
  std::string text;
  std::vector<Id> items;  ///< of a dict: key, value, key, value, …
};

/// One flat array of a file; tensors are views of it.
struct Storage {
  DType dtype = DType::f32;
  std::string key;
  std::int64_t elements = 0;
};

struct Tensor {
  std::size_t storage = 0;
  std::int64_t offset = 0;  ///< elements
  std::vector<std::int64_t> extents, strides;
};

/// What calling a global does; nothing else can be called.
enum class Action : std::uint8_t {
  make_dict,
  make_tensor,
  pass_first_argument,  ///< torch.Size(tuple), _rebuild_parameter(tensor, …)
  name_storage          ///< only the second part of a persistent id
};

struct Global {
  std::string_view name;  ///< "module name"
  Action action;
  DType dtype;  ///< of a storage
};

inline constexpr std::array<Global, 16> globals{
    {{"collections OrderedDict", Action::make_dict, {}},
     {"torch._utils _rebuild_tensor", Action::make_tensor, {}},
     {"torch._utils _rebuild_tensor_v2", Action::make_tensor, {}},
     {"torch._utils _rebuild_parameter", Action::pass_first_argument, {}},
     {"torch Size", Action::pass_first_argument, {}},
     {"torch FloatStorage", Action::name_storage, DType::f32},
     {"torch HalfStorage", Action::name_storage, DType::f16},
     {"torch BFloat16Storage", Action::name_storage, DType::bf16},
     {"torch DoubleStorage", Action::name_storage, DType::f64},
     {"torch LongStorage", Action::name_storage, DType::i64},
     {"torch IntStorage", Action::name_storage, DType::i32},
     {"torch ShortStorage", Action::name_storage, DType::i16},
     {"torch CharStorage", Action::name_storage, DType::i8},
     {"torch ByteStorage", Action::name_storage, DType::u8},
     {"torch BoolStorage", Action::name_storage, DType::boolean},
     {"torch.storage UntypedStorage", Action::name_storage, DType::u8}}};

/// Opcodes of the pickle protocols 0 to 5; `read` are those that are carried out here.
/// Source: Python's Lib/pickletools.py.
struct Opcode {
  std::uint8_t code;
  std::string_view name;
};
inline constexpr std::array<Opcode, 28> refused_opcodes{
    {{'I', "INT"},         {'L', "LONG"},       {0x8b, "LONG4"},
     {'S', "STRING"},      {'T', "BINSTRING"},  {'U', "SHORT_BINSTRING"},
     {'V', "UNICODE"},     {'F', "FLOAT"},      {'l', "LIST"},
     {'d', "DICT"},        {0x8f, "EMPTY_SET"}, {0x90, "ADDITEMS"},
     {0x91, "FROZENSET"},  {'0', "POP"},        {'1', "POP_MARK"},
     {'2', "DUP"},         {'g', "GET"},        {'p', "PUT"},
     {0x82, "EXT1"},       {0x83, "EXT2"},      {0x84, "EXT4"},
     {'i', "INST"},        {'o', "OBJ"},        {0x81, "NEWOBJ"},
     {0x92, "NEWOBJ_EX"},  {'P', "PERSID"},     {0x96, "BYTEARRAY8"},
     {0x97, "NEXT_BUFFER"}}};

/// "NEWOBJ (0x81)", or "unknown opcode (0xff)".
inline std::string opcode_text(std::uint8_t code) {
  std::string text = "unknown opcode";
  for (const Opcode& opcode : refused_opcodes) {
    if (opcode.code == code) text = opcode.name;
  }
  const char* digits = "0123456789abcdef";
  return text + " (0x" + digits[code >> 4] + digits[code & 15] + ")";
}

/// At most 80 bytes of foreign text, without anything a terminal would obey.
inline std::string printable(std::string_view text) {
  std::string result(text.substr(0, 80));
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return result;
}

}  // namespace pickle

ZIYA_NAMESPACE_END
