// SPDX-License-Identifier: Apache-2.0
// JSON from files that nobody vouches for: bounded, without repeated keys, every failure an Error.
#pragma once

#include <cstdint>
#include <filesystem>
#include <new>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/file.hpp"

ZIYA_NAMESPACE_BEGIN

/// What a document may cost; the defaults hold the largest configs and tokenizers in use.
struct JsonLimits {
  std::int64_t bytes = std::int64_t{64} << 20;
  int depth = 64;
  std::int64_t values = 4'000'000;
};

/// The document in `text`. A repeated key is refused: two readers would understand two things.
/// @param source named in messages, usually the file
/// @throws FormatError ZIYA-230; ZIYA-234 for a Git-LFS pointer in its place
nlohmann::json parse_json(std::string_view text, const std::string& source,
                          const JsonLimits& limits = {});
#if ZIYA_DEFINITIONS
ZIYA_INLINE nlohmann::json parse_json(std::string_view text, const std::string& source,
                                      const JsonLimits& limits) {
  const auto refuse = [&](const std::string& why) {
    throw FormatError("ZIYA-230", source + ": " + why);
  };
  if (static_cast<std::int64_t>(text.size()) > limits.bytes) {
    refuse("JSON of " + std::to_string(text.size()) + " bytes, expected at most " +
           std::to_string(limits.bytes));
  }
  refuse_lfs_pointer(text, source);
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::int64_t values = 0;
  using Event = nlohmann::json::parse_event_t;
  const auto check = [&](int depth, Event event, nlohmann::json& parsed) {
    if (depth > limits.depth) refuse("JSON nested deeper than " + std::to_string(limits.depth));
    if (++values > limits.values) {
      refuse("JSON of more than " + std::to_string(limits.values) + " values");
    }
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      refuse("the key \"" + parsed.get<std::string>() + "\" occurs twice");
    }
    return true;
  };
  try {
    return nlohmann::json::parse(text.data(), text.data() + text.size(), check);
  } catch (const nlohmann::json::exception& error) {
    throw FormatError("ZIYA-230", source + ": is not JSON: " + error.what());
  } catch (const std::bad_alloc&) {
    throw FormatError("ZIYA-230", source + ": JSON needs more memory than there is");
  }
}
#endif

/// `text` as a JSON string with its quotes. @throws ArgumentError ZIYA-239 when it is not UTF-8
inline std::string json_quote(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw ArgumentError("ZIYA-239", "a text that should go into JSON is not UTF-8");
  }
}

/// @throws IoError, FormatError ZIYA-230
inline nlohmann::json read_json_file(const std::filesystem::path& path,
                                     const JsonLimits& limits = {}) {
  return parse_json(read_text_file(path, limits.bytes), utf8_from_path(path), limits);
}

/// Whether `value` can become a `T` without losing anything: 3 is a double, 3.5 is no integer.
template <class T>
bool json_is(const nlohmann::json& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return value.is_boolean();
  } else if constexpr (std::is_integral_v<T>) {
    if (value.is_number_unsigned()) return std::in_range<T>(value.get<std::uint64_t>());
    return value.is_number_integer() && std::in_range<T>(value.get<std::int64_t>());
  } else if constexpr (std::is_floating_point_v<T>) {
    return value.is_number();
  } else {
    static_assert(std::is_same_v<T, std::string>);
    return value.is_string();
  }
}

/// {} and []; nlohmann::json's own functions compile a brace list for it.
inline nlohmann::json json_object() { return nlohmann::json(nlohmann::json::value_t::object); }
inline nlohmann::json json_array() { return nlohmann::json(nlohmann::json::value_t::array); }

/// Member `key` of `object`, or null when there is none. (Asking nlohmann::json with a literal
/// compiles anew for every length of one; so does a brace list of members.)
inline const nlohmann::json* json_find(const nlohmann::json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

/// The members of `object` in the order of their keys; none when it is no object.
inline const nlohmann::json::object_t& json_members(const nlohmann::json& object) {
  static const nlohmann::json::object_t none;
  const auto* members = object.get_ptr<const nlohmann::json::object_t*>();
  return members != nullptr ? *members : none;
}

/// "an integer", "a string", … as messages call it.
template <class T>
constexpr std::string_view json_kind() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_integral_v<T>) return "an integer in range";
  if constexpr (std::is_floating_point_v<T>) return "a number";
  return "a string";
}

/// @throws FormatError ZIYA-231: `where` is `value`, and `expected` was expected
[[noreturn]] void refuse_json_value(const nlohmann::json& value, const std::string& where,
                                    std::string_view expected);
#if ZIYA_DEFINITIONS
ZIYA_INLINE void refuse_json_value(const nlohmann::json& value, const std::string& where,
                                   std::string_view expected) {
  throw FormatError("ZIYA-231", where + " is " + std::string(value.type_name()) + " " +
                                    value.dump(-1, ' ', true).substr(0, 40) + ", expected " +
                                    std::string(expected));
}
#endif

/// Member `key` of `object` as `T`. @throws FormatError ZIYA-231 when absent or of another kind
template <class T>
T json_get(const nlohmann::json& object, const std::string& key, const std::string& source) {
  const nlohmann::json* found = json_find(object, key);
  if (found == nullptr) throw FormatError("ZIYA-231", source + ": has no \"" + key + "\"");
  if (!json_is<T>(*found)) {
    refuse_json_value(*found, source + ": \"" + key + "\"", json_kind<T>());
  }
  return found->get<T>();
}

/// The same, with `fallback` when the member is absent or null.
template <class T>
T json_get(const nlohmann::json& object, const std::string& key, const std::string& source,
           const T& fallback) {
  const nlohmann::json* found = json_find(object, key);
  return found == nullptr || found->is_null() ? fallback : json_get<T>(object, key, source);
}

ZIYA_NAMESPACE_END
