// SPDX-License-Identifier: Apache-2.0
// A pickle reader that builds tensors and containers and can do nothing else; no code is ever run.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"
#include "ziya/io/pickle_value.hpp"

ZIYA_NAMESPACE_BEGIN

namespace pickle {

/// A stretch of a file, read through a small buffer.
class Input {
 public:
  Input(const InputFile& file, std::int64_t begin, std::int64_t end)
      : file_(file), next_(begin), end_(end) {}

  /// Of the next byte, from the start of the file.
  [[nodiscard]] std::int64_t position() const {
    return next_ - static_cast<std::int64_t>(buffer_.size() - used_);
  }
  [[nodiscard]] std::int64_t remaining() const { return end_ - position(); }

  std::uint8_t byte() {
    if (used_ == buffer_.size()) fill();
    return std::to_integer<std::uint8_t>(buffer_[used_++]);
  }
  /// Little-endian, at most 8 bytes.
  std::uint64_t number(int bytes) {
    std::uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value |= std::uint64_t{byte()} << (8 * i);
    return value;
  }
  std::string text(std::uint64_t bytes) {
    if (bytes > static_cast<std::uint64_t>(remaining())) fail("ends in the middle of a text");
    if (bytes > max_text_bytes - text_bytes_) fail("holds more text than a model needs");
    text_bytes_ += bytes;
    std::string result;
    for (std::uint64_t i = 0; i < bytes; ++i) result += static_cast<char>(byte());
    return result;
  }
  std::string line() {
    std::string result;
    for (std::uint8_t c = byte(); c != '\n'; c = byte()) {
      result += static_cast<char>(c);
      if (result.size() > 256) fail("holds a name of more than 256 bytes");
    }
    return result;
  }
  [[noreturn]] void fail(const std::string& why, std::string_view id = "ZIYA-224") const {
    throw FormatError(
        id, file_.name() + ": the pickle " + why + " (at byte " + std::to_string(position()) + ")");
  }

 private:
  static constexpr std::uint64_t max_text_bytes = std::uint64_t{64} << 20;

  void fill() {
    const auto bytes = std::min<std::int64_t>(end_ - next_, 1 << 16);
    if (bytes == 0) fail("ends in the middle of an opcode");
    buffer_.resize(static_cast<std::size_t>(bytes));
    file_.read(next_, buffer_);
    next_ += bytes;
    used_ = 0;
  }

  const InputFile& file_;
  std::int64_t next_, end_;  // next_: of the first byte not in the buffer
  std::vector<std::byte> buffer_;
  std::size_t used_ = 0;
  std::uint64_t text_bytes_ = 0;
};

/// Runs one pickle of protocol 2 to 5. Its work is bounded by the length of the input, its
/// memory by `max_values`.
class Machine {
 public:
  explicit Machine(Input& input) : in_(input) {}

  /// The value at STOP. @throws FormatError ZIYA-222 (opcode), ZIYA-223 (global), ZIYA-224
  Id run() {
    for (std::uint8_t code = in_.byte(); code != '.'; code = in_.byte()) step(code);
    return pop();
  }
  [[nodiscard]] const Value& operator[](Id id) const { return values_[id]; }
  [[nodiscard]] const std::vector<Storage>& storages() const { return storages_; }
  [[nodiscard]] const std::vector<Tensor>& tensors() const { return tensors_; }
  [[noreturn]] void fail(const std::string& why) const { in_.fail(why); }

 private:
  static constexpr std::size_t max_values = 2'000'000;

  void step(std::uint8_t code) {
    switch (code) {
      case 0x80:
        return check_protocol();
      case 0x95:
        return static_cast<void>(in_.number(8));  // FRAME
      case '(':
        return mark();
      case 'N':
        return push(Kind::none);
      case 0x88:
        return push(Kind::boolean, 1);
      case 0x89:
        return push(Kind::boolean, 0);
      case 'J':
        return push(Kind::integer, static_cast<std::int32_t>(in_.number(4)));
      case 'K':
        return push(Kind::integer, static_cast<std::int64_t>(in_.number(1)));
      case 'M':
        return push(Kind::integer, static_cast<std::int64_t>(in_.number(2)));
      case 0x8a:
        return push_long();
      case 'G':
        return in_.number(8), push(Kind::other);
      case 'X':
        return push_text(Kind::string, in_.number(4));
      case 0x8c:
        return push_text(Kind::string, in_.number(1));
      case 0x8d:
        return push_text(Kind::string, in_.number(8));
      case 'B':
        return push_text(Kind::other, in_.number(4));
      case 'C':
        return push_text(Kind::other, in_.number(1));
      case 0x8e:
        return push_text(Kind::other, in_.number(8));
      case ']':
        return push(Kind::list);
      case 'a':
        return extend(Kind::list, 1);
      case 'e':
        return extend(Kind::list, since_mark());
      case '}':
        return push(Kind::dict);
      case 's':
        return extend(Kind::dict, 2);
      case 'u':
        return extend(Kind::dict, since_mark());
      case ')':
        return push_tuple(0);
      case 0x85:
        return push_tuple(1);
      case 0x86:
        return push_tuple(2);
      case 0x87:
        return push_tuple(3);
      case 't':
        return push_tuple(since_mark());
      case 'q':
        return put(static_cast<Id>(in_.number(1)));
      case 'r':
        return put(static_cast<Id>(in_.number(4)));
      case 0x94:
        return put(static_cast<Id>(memo_.size()));
      case 'h':
        return get(static_cast<Id>(in_.number(1)));
      case 'j':
        return get(static_cast<Id>(in_.number(4)));
      case 'c':
        return push_named_global();
      case 0x93:
        return push_stacked_global();
      case 'R':
        return reduce();
      case 'b':
        return build();
      case 'Q':
        return push_storage();
      default:
        in_.fail("asks for " + opcode_text(code) + ", which is refused", "ZIYA-222");
    }
  }

  void check_protocol() {
    const auto protocol = in_.byte();
    if (protocol < 2 || protocol > 5) {
      in_.fail("has protocol " + std::to_string(protocol) + ", expected 2 to 5");
    }
  }

  void check_room(std::size_t used) const {
    if (used >= max_values) in_.fail("holds more values than a model needs");
  }
  void push_value(Value value) {
    check_room(values_.size());
    const auto id = static_cast<Id>(values_.size());
    values_.push_back(std::move(value));
    stack_.push_back(id);
  }
  void push(Kind kind, std::int64_t number = 0) { push_value({kind, number, {}, {}}); }
  void push_text(Kind kind, std::uint64_t bytes) { push_value({kind, 0, in_.text(bytes), {}}); }
  void push_long() {
    const auto bytes = in_.byte();
    if (bytes > 8) return push_text(Kind::other, bytes);
    std::uint64_t value = in_.number(bytes);
    const int unused = 64 - 8 * bytes;  // sign extension
    if (bytes != 0 && (value >> (8 * bytes - 1)) != 0 && unused != 0) {
      value |= ~std::uint64_t{0} << (8 * bytes);
    }
    push(Kind::integer, static_cast<std::int64_t>(value));
  }

  Id pop() {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() <= floor) in_.fail("takes a value where there is none");
    const Id id = stack_.back();
    stack_.pop_back();
    return id;
  }
  std::vector<Id> pop(std::size_t count) {
    std::vector<Id> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }
  /// Number of values above the last mark, which is removed.
  std::size_t since_mark() {
    if (marks_.empty()) in_.fail("closes a list that was not opened");
    const std::size_t count = stack_.size() - marks_.back();
    marks_.pop_back();
    return count;
  }
  Id top() {
    const Id id = pop();
    stack_.push_back(id);
    return id;
  }
  void push_tuple(std::size_t count) { push_value({Kind::tuple, 0, {}, pop(count)}); }
  void extend(Kind kind, std::size_t count) {
    const auto items = pop(count);
    Value& target = values_[top()];
    if (target.kind != kind || (kind == Kind::dict && count % 2 != 0)) {
      in_.fail("adds to something that is no such container");
    }
    for (const Id item : items) target.items.push_back(item);
  }

  void mark() {
    check_room(marks_.size());
    marks_.push_back(stack_.size());
  }
  void put(Id key) {
    check_room(memo_.size());
    memo_[static_cast<std::int32_t>(key)] = top();
  }
  void get(Id key) {
    const auto found = memo_.find(static_cast<std::int32_t>(key));
    if (found == memo_.end()) in_.fail("recalls a value that was not stored");
    check_room(stack_.size());
    const auto id = static_cast<Id>(found->second);
    stack_.push_back(id);
  }

  void push_global(const std::string& module, const std::string& name) {
    const std::string full = module + " " + name;
    std::size_t place = 0;
    while (place < globals.size() && globals[place].name != full) ++place;
    if (place == globals.size()) {
      in_.fail("asks for the global " + printable(module + "." + name) +
                   ", which is refused: only tensors and containers are read",
               "ZIYA-223");
    }
    push(Kind::global, static_cast<std::int64_t>(place));
  }
  void push_named_global() {
    const std::string module = in_.line();
    push_global(module, in_.line());
  }
  void push_stacked_global() {
    const auto names = pop(2);
    if (values_[names[0]].kind != Kind::string || values_[names[1]].kind != Kind::string) {
      in_.fail("names a global by something else than texts");
    }
    const std::string module = values_[names[0]].text, name = values_[names[1]].text;
    push_global(module, name);
  }

  void reduce() {
    const auto call = pop(2);
    const Value& function = values_[call[0]];
    if (function.kind != Kind::global || values_[call[1]].kind != Kind::tuple) {
      in_.fail("calls something that is no function");
    }
    const Global& global = globals[static_cast<std::size_t>(function.number)];
    const auto arguments = short_tuple(call[1]);
    if (global.action == Action::make_dict && arguments.empty()) return push(Kind::dict);
    if (global.action == Action::make_tensor) return push_tensor(arguments);
    if (global.action == Action::pass_first_argument && !arguments.empty()) {
      const Kind kind = values_[arguments[0]].kind;
      if (kind == Kind::tensor || kind == Kind::tuple) return stack_.push_back(arguments[0]);
    }
    in_.fail("calls " + std::string(global.name) + " with other arguments than torch.save writes");
  }
  /// The items of a tuple that cannot be long: copies of a long one would make work out of a
  /// few bytes.
  [[nodiscard]] std::vector<Id> short_tuple(Id id) const {
    const Value& value = values_[id];
    if (value.kind != Kind::tuple || value.items.size() > 8) {
      in_.fail("has another value where torch.save writes a short tuple");
    }
    return value.items;
  }
  /// State of an OrderedDict: torch keeps version numbers there, nothing that is needed.
  void build() {
    const Id state = pop();
    if (values_[state].kind != Kind::dict || values_[top()].kind != Kind::dict) {
      in_.fail("sets the state of something else than a dict", "ZIYA-222");
    }
  }

  /// ('storage', type, key, location, elements[, view])
  void push_storage() {
    const auto parts = short_tuple(pop());
    const auto is = [&](std::size_t i, Kind kind) { return values_[parts[i]].kind == kind; };
    const bool known = (parts.size() == 5 || (parts.size() == 6 && is(5, Kind::none))) &&
                       is(0, Kind::string) && values_[parts[0]].text == "storage" &&
                       is(1, Kind::global) && is(2, Kind::string) && is(4, Kind::integer) &&
                       values_[parts[4]].number >= 0;
    if (!known) in_.fail("names a storage in a form that torch.save does not write");
    const Global& type = globals[static_cast<std::size_t>(values_[parts[1]].number)];
    if (type.action != Action::name_storage) in_.fail("names a storage of no storage type");
    storages_.push_back({type.dtype, values_[parts[2]].text, values_[parts[4]].number});
    push(Kind::storage, static_cast<std::int64_t>(storages_.size() - 1));
  }
  /// (storage, offset, extents, strides, …)
  void push_tensor(const std::vector<Id>& arguments) {
    if (arguments.size() < 4 || values_[arguments[0]].kind != Kind::storage) {
      in_.fail("builds a tensor from something else than a storage");
    }
    Tensor tensor;
    tensor.storage = static_cast<std::size_t>(values_[arguments[0]].number);
    tensor.offset = size_of(arguments[1]);
    for (const Id id : short_tuple(arguments[2])) tensor.extents.push_back(size_of(id));
    for (const Id id : short_tuple(arguments[3])) tensor.strides.push_back(size_of(id));
    tensors_.push_back(std::move(tensor));
    push(Kind::tensor, static_cast<std::int64_t>(tensors_.size() - 1));
  }
  [[nodiscard]] std::int64_t size_of(Id id) const {
    const Value& value = values_[id];
    if (value.kind != Kind::integer || value.number < 0) {
      in_.fail("gives a tensor something else than sizes");
    }
    return value.number;
  }

  Input& in_;
  std::vector<Value> values_;
  std::vector<Id> stack_;
  std::vector<std::size_t> marks_;  // heights of the stack
  std::map<std::int32_t, std::size_t> memo_;
  std::vector<Storage> storages_;
  std::vector<Tensor> tensors_;
};

}  // namespace pickle

ZIYA_NAMESPACE_END
