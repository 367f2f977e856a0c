// SPDX-License-Identifier: Apache-2.0
// JSON Schema as a grammar whose texts are JSON that satisfies the schema.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ziya/config.hpp"
#include "ziya/core/error.hpp"
#include "ziya/generate/grammar.hpp"
#include "ziya/generate/grammar_parser.hpp"
#include "ziya/model/llama_config.hpp"

ZIYA_NAMESPACE_BEGIN

/// Understands `type` (a name or a list), `enum`, `const`, `anyOf`, `$ref` within the document,
/// `properties`, `required`, `additionalProperties`, `items`, `minItems`, `maxItems`, `minLength`,
/// `maxLength`, the schemas `true` and `{}`, and what only annotates. Every other keyword is
/// refused by name, and so is a keyword beside `enum`, `const`, `anyOf` or `$ref` that would
/// restrict them. The grammar is narrower than the schema where that keeps it small: members stand
/// in the order of their names, none is added unless `additionalProperties` says so, numbers have
/// at most 16 digits.
class JsonSchema {
 public:
  /// @param text the schema   @throws FormatError ZIYA-230 for a text that is no JSON,
  /// ArgumentError ZIYA-549 for what is not supported or that nothing satisfies, and as
  /// GrammarParser does
  static Grammar grammar(std::string_view text);

  /// The grammar in GrammarParser's notation.
  static std::string notation(std::string_view text);
};

#if ZIYA_DEFINITIONS
namespace detail {
class SchemaReader {
 public:
  static std::string notation(std::string_view text) {
    SchemaReader schema;
    schema.document_ =
        parse_json(text, "JSON schema", {.bytes = 1 << 20, .depth = 64, .values = 100'000});
    std::string rules = "root ::= " + schema.rule_for("#", schema.document_) + " ws\n";
    while (!schema.pending_.empty()) {
      const Pending next = schema.pending_.back();
      schema.pending_.pop_back();
      rules += next.name + " ::= " + schema.body(*next.schema, next.name) + "\n";
    }
    return rules + schema.extra_ + std::string(common);
  }

 private:
  using Json = nlohmann::json;
  struct Pending {
    std::string name;
    const Json* schema;
  };

  static constexpr std::string_view common =
      R"(ws ::= (" " | "\n" [ \t]{0,16})?
any ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (member ("," ws member)*)? "}" ws
member ::= string ws ":" ws any ws
array ::= "[" ws (any ws ("," ws any ws)*)? "]" ws
string ::= "\"" char* "\""
char ::= [^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" code)
code ::= [0-9a-cA-Ce-fE-F] hex{3} | [dD] [0-7] hex{2} | [dD] [89abAB] hex{2} "\\u" [dD] [c-fC-F] hex{2}
hex ::= [0-9a-fA-F]
integer ::= "-"? ("0" | [1-9] [0-9]{0,15})
number ::= integer ("." [0-9]{1,16})? ([eE] [\-+]? [0-9]{1,2})?
)";

  [[noreturn]] static void refuse(const std::string& why) {
    throw ArgumentError("ZIYA-549", "JSON schema: " + why);
  }

  /// The name of the rule of a schema; `place` tells one schema from another.
  std::string rule_for(const std::string& place, const Json& schema) {
    std::string& name = names_[place];
    if (name.empty()) {
      name = "s" + std::to_string(names_.size() - 1);
      pending_.push_back({name, &schema});
    }
    return name;
  }
  std::string sub(const Json& schema) {
    return rule_for("@" + std::to_string(reinterpret_cast<std::uintptr_t>(&schema)), schema);
  }

  std::string body(const Json& schema, const std::string& name) {
    if (schema.is_boolean() && schema.get<bool>()) return "any";
    if (schema.is_boolean()) refuse("the schema false, which nothing satisfies");
    if (!schema.is_object()) refuse("a schema is " + std::string(schema.type_name()));
    check_keywords(schema);
    for (const char* alone : {"$ref", "const", "enum", "anyOf"}) {
      if (schema.contains(alone)) return body_alone(schema, alone);
    }
    std::string result;
    for (const std::string& type : types(schema)) {
      result += (result.empty() ? "" : " | ") + body_of(schema, type, name);
    }
    return result;
  }

  static void check_keywords(const Json& schema) {
    static const std::set<std::string> known{
        "type",        "enum",       "const",    "anyOf",       "$ref",
        "properties",  "required",   "items",    "minItems",    "maxItems",
        "minLength",   "maxLength",  "$defs",    "definitions", "title",
        "description", "default",    "examples", "$schema",     "$id",
        "$comment",    "deprecated", "readOnly", "writeOnly",   "additionalProperties"};
    for (const auto& [key, value] : json_members(schema)) {
      if (!known.contains(key)) refuse("the keyword \"" + key + "\" is not supported");
    }
  }

  std::string body_alone(const Json& schema, const std::string& keyword) {
    static const std::set<std::string> restricting{
        "enum",  "const",    "anyOf",    "$ref",      "properties", "required",
        "items", "minItems", "maxItems", "minLength", "maxLength",  "additionalProperties",
        "type"};
    const bool values = keyword == "enum" || keyword == "const";
    for (const auto& [key, value] : json_members(schema)) {
      if (key == keyword || !restricting.contains(key) || (values && key == "type")) continue;
      refuse("\"" + key + "\" beside \"" + keyword + "\" is not supported");
    }
    const Json& value = *json_find(schema, keyword);
    if (keyword == "$ref") {
      if (!value.is_string()) refuse("$ref is no string");
      return reference(value.get<std::string>());
    }
    if (keyword == "const") {
      Json only = json_array();
      only.push_back(value);
      return one_of(schema, only);
    }
    if (!value.is_array() || value.empty()) refuse("\"" + keyword + "\" is no list, or empty");
    if (keyword == "enum") return one_of(schema, value);
    std::string result;
    for (const Json& each : value) result += (result.empty() ? "" : " | ") + sub(each);
    return result;
  }

  std::string one_of(const Json& schema, const Json& values) {
    std::string result;
    const std::vector<std::string> allowed = types(schema);
    for (const Json& value : values) {
      bool fits = false;
      for (const std::string& type : allowed) {
        fits = fits || (type == "number" && value.is_number()) ||
               (type == "integer" && value.is_number_integer()) || type == value.type_name();
      }
      if (fits) result += (result.empty() ? "" : " | ") + literal(value.dump());
    }
    if (result.empty()) refuse("no value of enum or const is of the type asked for");
    return result;
  }

  std::string reference(const std::string& pointer) {
    if (!pointer.starts_with("#")) refuse("$ref " + pointer + " leads out of the document");
    std::vector<std::string> keys;  // the last one first
    try {
      Json::json_pointer path(pointer.substr(1));
      for (; !path.empty(); path.pop_back()) keys.push_back(path.back());
    } catch (const Json::exception&) {
      refuse("$ref " + pointer + " is no JSON pointer");
    }
    const Json* target = &document_;
    for (; !keys.empty() && target != nullptr; keys.pop_back()) {
      target = target->is_array() ? element(*target, keys.back()) : json_find(*target, keys.back());
    }
    if (target == nullptr) refuse("$ref " + pointer + " leads nowhere");
    return target == &document_ ? rule_for("#", document_) : sub(*target);
  }

  static const Json* element(const Json& list, const std::string& index) {
    std::size_t at = 0;
    std::from_chars(index.data(), index.data() + index.size(), at);
    return std::to_string(at) == index && at < list.size() ? &list[at] : nullptr;
  }
  static bool has(const Json& schema, const char* key) { return json_find(schema, key) != nullptr; }
  /// The list that `value` is, or that it alone makes.
  static Json list_of(const Json& value) {
    if (value.is_array()) return value;
    Json result = json_array();
    result.push_back(value);
    return result;
  }

  static std::vector<std::string> types(const Json& schema) {
    static const std::vector<std::string> all{"object", "array",   "string",
                                              "number", "boolean", "null"};
    const Json* found = json_find(schema, "type");
    if (found == nullptr) {
      if (has(schema, "enum") || has(schema, "const")) return all;
      for (const char* key : {"properties", "required", "additionalProperties"}) {
        if (has(schema, key)) return {"object"};
      }
      for (const char* key : {"items", "minItems", "maxItems"}) {
        if (has(schema, key)) return {"array"};
      }
      for (const char* key : {"minLength", "maxLength"}) {
        if (has(schema, key)) return {"string"};
      }
      return all;
    }
    std::vector<std::string> result;
    for (const Json& type : list_of(*found)) {
      if (!type.is_string()) refuse("type is neither a name nor a list of names");
      result.push_back(type.get<std::string>());
    }
    if (result.empty()) refuse("type is an empty list");
    return result;
  }

  std::string body_of(const Json& schema, const std::string& type, const std::string& name) {
    if (type == "object") return object(schema, name);
    if (type == "array") return array(schema);
    if (type == "string") return "\"\\\"\" " + repeated("char", schema, "Length") + " \"\\\"\"";
    if (type == "boolean") return "\"true\" | \"false\"";
    if (type == "null") return "\"null\"";
    if (type == "number" || type == "integer") return type;
    refuse("there is no type \"" + type + "\"");
  }

  /// minX and maxX of a schema as a repetition.
  static std::pair<std::int64_t, std::int64_t> bounds(const Json& schema, const std::string& what) {
    const auto number = [&](const std::string& key, std::int64_t fallback) {
      const auto found = schema.find(key);
      if (found == schema.end()) return fallback;
      if (!json_is<std::int64_t>(*found) || found->get<std::int64_t>() < 0 ||
          found->get<std::int64_t>() > GrammarParser::most_repeats) {
        refuse(key + " is " + found->dump(-1, ' ', true).substr(0, 40) + ", expected 0 to " +
               std::to_string(GrammarParser::most_repeats));
      }
      return found->get<std::int64_t>();
    };
    const std::pair result(number("min" + what, 0), number("max" + what, -1));
    if (result.second >= 0 && result.second < result.first) {
      refuse("min" + what + " is above max" + what);
    }
    return result;
  }
  static std::string range(std::int64_t least, std::int64_t most) {
    return "{" + std::to_string(least) + "," + (most < 0 ? "" : std::to_string(most)) + "}";
  }
  static std::string repeated(const std::string& item, const Json& schema,
                              const std::string& what) {
    const auto [least, most] = bounds(schema, what);
    return item + range(least, most);
  }

  std::string array(const Json& schema) {
    const auto [least, most] = bounds(schema, "Items");
    if (most == 0) return R"("[" ws "]")";
    const Json* found = json_find(schema, "items");
    const std::string item = (found == nullptr ? "any" : sub(*found)) + " ws";
    std::string list = item + " (\",\" ws " + item + ")" +
                       range(least > 0 ? least - 1 : 0, most < 0 ? -1 : most - 1);
    if (least == 0) list = "(" + list + ")?";
    return "\"[\" ws " + list + " \"]\"";
  }

  /// Members in order; two rules per member, for lists that have begun and that have not:
  ///     more_i ::= "," member_i more_{i+1} | more_{i+1}      first_i ::= member_i more_{i+1} |
  ///     first_{i+1}
  /// where the second way is open to members that are not required.
  std::string object(const Json& schema, const std::string& name) {
    const Json* properties = json_find(schema, "properties");
    const Json* additional = json_find(schema, "additionalProperties");
    const bool forbidden =
        additional != nullptr && additional->is_boolean() && !additional->get<bool>();
    const bool closed = additional == nullptr || forbidden;
    if (properties == nullptr && !has(schema, "required") && !has(schema, "additionalProperties")) {
      return R"("{" ws (member ("," ws member)*)? "}")";
    }
    if (properties != nullptr && !properties->is_object()) refuse("properties is no object");
    std::set<std::string> keys, needed;
    if (properties != nullptr) {
      for (const auto& [key, value] : json_members(*properties)) keys.insert(key);
    }
    if (const Json* list = json_find(schema, "required")) {
      if (!list->is_array()) refuse("required is no list");
      for (const Json& key : *list) {
        if (!key.is_string()) refuse("required holds something that is no name");
        const auto text = key.get<std::string>();
        if (forbidden && !keys.contains(text)) {
          refuse("\"" + text + "\" is required, and additionalProperties forbids it");
        }
        keys.insert(text);
        needed.insert(text);
      }
    }
    std::string more = "\"\"", first = "\"\"";
    if (!closed) {
      const std::string pair = other_key(keys, name) + " ws \":\" ws " + sub(*additional) + " ws";
      extra_ += name + "-more ::= (\",\" ws " + pair + ")*\n" + name + "-first ::= (" + pair + " " +
                name + "-more)?\n";
      more = name + "-more", first = name + "-first";
    }
    std::size_t number = keys.size();
    for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
      const std::string suffix = std::to_string(--number);
      const Json* member = properties == nullptr ? nullptr : json_find(*properties, *key);
      if (member == nullptr) member = additional;
      const bool required = needed.contains(*key);
      const std::string value = member == nullptr ? "any" : sub(*member);
      const std::string pair = literal(json_quote(*key)) + " ws \":\" ws " + value + " ws";
      extra_ += name + "-p" + suffix + " ::= " + pair + "\n";
      extra_ += name + "-m" + suffix + " ::= \",\" ws " + name + "-p" + suffix + " " + more +
                (required ? "" : " | " + more) + "\n";
      extra_ += name + "-f" + suffix + " ::= " + name + "-p" + suffix + " " + more +
                (required ? "" : " | " + first) + "\n";
      more = name + "-m" + suffix, first = name + "-f" + suffix;
    }
    return "\"{\" ws " + first + " \"}\"";
  }

  /// A rule for keys that are none of `keys`: along their shared beginnings, a key ends early or
  /// takes another character than any of them. Such keys have no escapes.
  std::string other_key(const std::set<std::string>& keys, const std::string& name) {
    std::vector<std::string> nodes{""};  // beginnings
    for (std::size_t node = 0; node < nodes.size(); ++node) {
      if (extra_.size() > GrammarParser::most_bytes) refuse("its names are too long together");
      const std::string begin = nodes[node];
      std::string excluded, alternatives = keys.contains(begin) ? "" : "\"\" | ";
      std::string deeper, last;
      for (auto key = keys.lower_bound(begin); key != keys.end() && key->starts_with(begin);
           ++key) {
        const std::string rest = key->substr(begin.size());
        if (rest.empty()) continue;
        const std::string character = rest.substr(0, read_utf8(rest).bytes);
        if (character == last) continue;
        last = character;
        excluded += in_class(character);
        if (static_cast<unsigned char>(character[0]) < 0x20 || character == "\"" ||
            character == "\\" || character == "\x7f") {
          continue;  // only an escape spells it
        }
        deeper += " | " + literal(character) + " " + name + "-k" + std::to_string(nodes.size());
        nodes.push_back(begin + character);
      }
      extra_ += name + "-k" + std::to_string(node) + " ::= " + alternatives +
                "[^\"\\\\\\x00-\\x1F\\x7F" + excluded + "] [^\"\\\\\\x00-\\x1F\\x7F]*" + deeper +
                "\n";
    }
    return "\"\\\"\" " + name + "-k0 \"\\\"\"";
  }

  static std::string in_class(const std::string& character) {
    const Utf8Sequence found = read_utf8(character);
    char text[16];
    std::snprintf(text, sizeof text, "\\U%08X", static_cast<unsigned>(found.character));
    return text;
  }
  /// Text as a literal of the grammar.
  static std::string literal(const std::string& text) {
    std::string result = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') {
        result += {'\\', c};
      } else if (c == '\n') {
        result += "\\n";
      } else {
        result += c;
      }
    }
    return result + "\"";
  }

  Json document_;
  std::map<std::string, std::string> names_;
  std::vector<Pending> pending_;
  std::string extra_;
};

}  // namespace detail

ZIYA_INLINE Grammar JsonSchema::grammar(std::string_view text) {
  return GrammarParser::parse(notation(text));
}
ZIYA_INLINE std::string JsonSchema::notation(std::string_view text) {
  return detail::SchemaReader::notation(text);
}
#endif

ZIYA_NAMESPACE_END
