// SPDX-License-Identifier: Apache-2.0
// Grammars and JSON schemas: what they accept, what is refused, and that sampled answers parse.
#include <array>
#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <set>
#include <string>

#include "model/ziya_tiny.hpp"
#include "support/errors.hpp"
#include "ziya/backend/cpu/context.hpp"
#include "ziya/generate/configured_policy.hpp"
#include "ziya/generate/generator.hpp"
#include "ziya/generate/grammar_parser.hpp"
#include "ziya/generate/json_schema.hpp"

namespace grammar_test {

using namespace ziya;

std::shared_ptr<const Grammar> grammar(const std::string& text) {
  return std::make_shared<const Grammar>(GrammarParser::parse(text));
}

/// Whether `text` is a whole text of the grammar.
bool accepts(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  GrammarMatcher matcher(grammar);
  std::int32_t state = matcher.start();
  for (const char byte : text) {
    state = matcher.next(state, static_cast<std::uint8_t>(byte));
    if (state == GrammarMatcher::dead) return false;
    if (matcher.crowded()) state = matcher.keep_only(state);
  }
  return matcher.may_end(state);
}
bool accepts(const std::string& rules, std::string_view text) {
  return accepts(grammar(rules), text);
}

std::string refusal(const std::string& rules) {
  try {
    grammar(rules);
  } catch (const Error& error) {
    return error.id();
  }
  return "";
}

TEST_CASE("literals, classes, groups and repetitions accept what they say") {
  CHECK(accepts("root ::= \"ab\" | [x-z]", "ab"));
  CHECK(accepts("root ::= \"ab\" | [x-z]", "y"));
  CHECK_FALSE(accepts("root ::= \"ab\" | [x-z]", "aby"));
  CHECK(accepts("root ::= [^a-c]+ # comment\n", "xyz中"));
  CHECK_FALSE(accepts("root ::= [^a-c]+", "xya"));
  CHECK(accepts("root ::= (\"a\" | \"b\" \"c\")* \"d\"", "abcabcd"));
  for (int n = 0; n < 6; ++n) {
    const std::string text(static_cast<std::size_t>(n), 'a');
    CHECK(accepts("root ::= \"a\"{2,4}", text) == (n >= 2 && n <= 4));
    CHECK(accepts("root ::= \"a\"{2,}", text) == (n >= 2));
    CHECK(accepts("root ::= \"a\"{3}", text) == (n == 3));
    CHECK(accepts("root ::= \"a\"?", text) == (n <= 1));
    CHECK(accepts("root ::= \"a\"+", text) == (n >= 1));
  }
  CHECK(accepts("root ::= item (\",\" item)*\nitem ::= [0-9]+", "1,22,333"));
  CHECK(accepts("root ::= \"(\" root \")\" | \"\"", "((()))"));
  CHECK_FALSE(accepts("root ::= \"(\" root \")\" | \"\"", "(()"));
  CHECK(accepts(R"(root ::= "\x41\u4e2d\U0001F600\n\"\\")", "A中😀\n\"\\"));
  CHECK(accepts("root ::= .", "😀"));
}

TEST_CASE("characters are UTF-8: a beginning that no character of the class has is dead at once") {
  GrammarMatcher matcher(grammar("root ::= [中-龥]"));
  const std::int32_t start = matcher.start();
  CHECK(matcher.next(start, 'a') == GrammarMatcher::dead);
  CHECK(matcher.next(start, 0xC3) == GrammarMatcher::dead);  // U+00C0 …
  CHECK(matcher.next(start, 0xE3) == GrammarMatcher::dead);  // U+3000 … U+3FFF
  const std::int32_t lead = matcher.next(start, 0xE4);
  REQUIRE(lead != GrammarMatcher::dead);
  CHECK(matcher.next(lead, 0xB7) == GrammarMatcher::dead);  // U+4DC0 … U+4DFF
  CHECK(matcher.next(lead, 0xB8) != GrammarMatcher::dead);
  CHECK_FALSE(matcher.may_end(lead));
  for (const std::string bad :
       {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x80\x80", "\x80"}) {
    CHECK_FALSE(accepts("root ::= .*", bad));
  }
}

TEST_CASE("hostile grammars are refused") {
  CHECK(refusal("root ::= root \"a\" | \"a\"") == "ZIYA-542");
  CHECK(refusal("root ::= x\nx ::= y \"a\" | \"\"\ny ::= \"\" x") == "ZIYA-542");
  CHECK(refusal("root ::= (\"a\"?)*") == "ZIYA-542");
  CHECK(refusal("root ::= \"a\" root") == "ZIYA-543");
  CHECK(refusal("root ::= [^\\x00-\\U0010FFFF]") == "ZIYA-543");
  CHECK(refusal("root ::= \"a\"{9999}") == "ZIYA-541");
  CHECK(
      refusal("root ::= ((\"a\" \"b\"){4000} \"c\"){4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}"
              "{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}"
              "{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}"
              "{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}"
              "{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}"
              "{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}{4000}") == "ZIYA-541");
  CHECK(refusal("root ::= " + std::string(100, '(') + "\"a\"" + std::string(100, ')')) ==
        "ZIYA-541");
  for (const char* bad :
       {"", "root", "root ::= x", "root ::= \"a", "root ::= [a", "root ::= [z-a]",
        "root ::= \"\\q\"", "root ::= \"\\ud800\"", "root ::= (\"a\"", "root ::= \"a\")",
        "root ::= \"a\"{2", "root ::= \"a\"{3,2}", "root ::= \"a\"\nroot ::= \"b\"", "x ::= \"a\"",
        "root ::= \xff", "root ::= *", "root ::= \"a\" {", "= a"}) {
    INFO(bad);
    CHECK(refusal(bad) == "ZIYA-540");
  }
  // Exponentially many ways to read one text are one state.
  std::string wide = "root ::= r0*\n";
  for (int i = 0; i < 60; ++i) {
    wide += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + " | r" +
            std::to_string(i + 1) + "\n";
  }
  CHECK(accepts(wide + "r60 ::= \"a\"\n", std::string(500, 'a')));
}

TEST_CASE("long and deep texts stay in bounded memory") {
  CHECK(accepts("root ::= \"a\"* ", std::string(200'000, 'a')));
  CHECK(
      accepts("root ::= \"(\" root \")\" | \"\"", std::string(2000, '(') + std::string(2000, ')')));
}

bool satisfies(const std::string& schema, const std::string& text) {
  return accepts(std::make_shared<const Grammar>(JsonSchema::grammar(schema)), text);
}

TEST_CASE("schemas accept what satisfies them") {
  const std::string person = R"({"type": "object", "required": ["name"], "properties": {
      "name": {"type": "string", "minLength": 1, "maxLength": 3}, "age": {"type": "integer"}}})";
  CHECK(satisfies(person, R"({"name":"李白"})"));
  CHECK(satisfies(person, R"({"age": 3, "name": "ab"})"));
  CHECK_FALSE(satisfies(person, R"({"age":3})"));
  CHECK_FALSE(satisfies(person, R"({"age":3,"name":""})"));
  CHECK_FALSE(satisfies(person, R"({"age":3,"name":"abcd"})"));
  CHECK_FALSE(satisfies(person, R"({"name":"a","other":1})"));
  CHECK_FALSE(satisfies(person, R"({"age":3.5,"name":"a"})"));
  CHECK(satisfies(R"({"enum": ["a\"b", 3, null, {"x": [1]}]})", R"({"x":[1]})"));
  CHECK(satisfies(R"({"enum": ["a\"b"]})", R"("a\"b")"));
  CHECK_FALSE(satisfies(R"({"enum": ["a", 3], "type": "string"})", "3"));
  CHECK(satisfies(R"({"const": [1,2]})", "[1,2]"));
  CHECK(satisfies(R"({"anyOf": [{"type": "null"}, {"type": "boolean"}]})", "true"));
  const std::string tree = R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
      "properties": {"next": {"$ref": "#/$defs/node"}, "value": {"type": ["number", "null"]}},
      "required": ["value"]}}})";
  CHECK(satisfies(tree, R"({"next":{"value":-1.5e3},"value":null})"));
  CHECK_FALSE(satisfies(tree, R"({"next":{},"value":null})"));
  const std::string pair = R"({"anyOf": [{"type": "null"}, {"type": "object", "properties": {
      "a/b": {"$ref": "#/anyOf/0"}, "c": {"$ref": "#/anyOf/1/properties/a~1b"}},
      "required": ["a/b", "c"]}]})";
  CHECK(satisfies(pair, R"({"a/b":null,"c":null})"));
  CHECK_FALSE(satisfies(pair, R"({"a/b":null,"c":1})"));
  const std::string few = R"({"type": "array", "items": {"type": "boolean"}, "minItems": 1,
                              "maxItems": 2})";
  CHECK_FALSE(satisfies(few, "[]"));
  CHECK(satisfies(few, "[true, false]"));
  CHECK_FALSE(satisfies(few, "[true,true,true]"));
  CHECK(satisfies("true", R"({"a":[1,{"b":"\u00e9\ud83d\ude00"}]})"));
  CHECK_FALSE(satisfies("{}", R"("\ud800")"));
  CHECK_FALSE(satisfies("{}", "[1,]"));
  CHECK_FALSE(satisfies("{}", "01"));
  const std::string more = R"({"properties": {"ab": {"type": "null"}, "ac": {"type": "null"}},
                              "additionalProperties": {"type": "integer"}})";
  CHECK(satisfies(more, R"({"ab":null,"a":1,"abc":2,"b":3,"":4})"));
  CHECK_FALSE(satisfies(more, R"({"ab":1})"));
  CHECK_FALSE(satisfies(more, R"({"a":null})"));
}

TEST_CASE("what a schema asks and nothing here implements is refused by name") {
  for (const char* bad : {R"({"pattern": "a+"})",
                          R"({"oneOf": [true]})",
                          R"({"minimum": 3})",
                          R"({"not": {}})",
                          R"({"type": "integer", "format": "int32"})",
                          "false",
                          "3",
                          R"({"type": "text"})",
                          R"({"enum": []})",
                          R"({"enum": [1], "minLength": 2})",
                          R"({"$ref": "other.json"})",
                          R"({"$ref": "#/nothing"})",
                          R"({"$ref": "#nothing"})",
                          R"({"anyOf": [true, {"$ref": "#/anyOf/2"}]})",
                          R"({"anyOf": [true, {"$ref": "#/anyOf/00"}]})",
                          R"({"anyOf": [true, {"$ref": "#/anyOf/0x"}]})",
                          R"({"minItems": 3, "maxItems": 2})",
                          R"({"minLength": -1})",
                          R"({"required": ["a"], "additionalProperties": false})",
                          R"({"type": []})",
                          R"({"enum": [1], "type": "string"})",
                          R"({"properties": 1})",
                          R"({"required": 1})",
                          R"({"required": [1]})",
                          R"({"type": [1]})",
                          R"({"anyOf": 1})",
                          R"({"$ref": 1})"}) {
    INFO(bad);
    REQUIRE_ERROR(JsonSchema::grammar(bad), "ZIYA-549", "JSON schema: ");
  }
  CHECK_THROWS_AS(JsonSchema::grammar("{"), FormatError);
  CHECK_THROWS_AS(JsonSchema::grammar(R"({"$ref": "#"})"), ArgumentError);  // left recursion
}

/// Own check of an answer, by nlohmann/json.
void check_answer(const nlohmann::json& json) {
  REQUIRE(json.is_object());
  CHECK(json.at("title").get<std::string>().size() <= 4 * 6);
  CHECK(json.at("title").is_string());
  if (json.contains("kind")) CHECK((json["kind"] == "诗" || json["kind"] == "prose"));
  if (json.contains("lines")) {
    CHECK(json["lines"].size() <= 3);
    for (const auto& line : json["lines"]) CHECK((line.is_number_integer() || line.is_null()));
  }
  for (const auto& [key, value] : json.items()) {
    if (key != "title" && key != "kind" && key != "lines") CHECK(value.is_boolean());
  }
}

TEST_CASE("every answer that ends parses and satisfies the schema") {
  const auto& tiny = fixture::ZiyaTiny::instance();
  const std::string schema = R"({"type": "object", "required": ["title"], "properties": {
      "title": {"type": "string", "maxLength": 6}, "kind": {"enum": ["诗", "prose"]},
      "lines": {"type": "array", "maxItems": 3, "items": {"type": ["integer", "null"]}}},
      "additionalProperties": {"type": "boolean"}})";
  GenerationConfig config{.max_new_tokens = 600};
  config.constraint = {std::make_shared<const Grammar>(JsonSchema::grammar(schema)),
                       std::make_shared<const ConstraintVocabulary>(tiny.tokenizer())};
  config.eos_ids = {2};
  config.top_k = 0;
  config.top_p = 1;
  // Random rows stand for a model: any token anywhere, ends not rare.
  std::mt19937 draw(3);
  std::normal_distribution<float> normal(0, 2);
  Context<Cpu> ctx({.threads = 1});
  std::vector<float> logits(static_cast<std::size_t>(tiny.tokenizer().vocabulary_size()));
  int ended = 0, bytes = 0;
  for (int round = 0; round < 240; ++round) {
    config.seed = static_cast<std::uint64_t>(round);
    Sequence<ConfiguredPolicy> sequence(tiny.tokenizer(), {}, config, {1}, 2000, {});
    while (!sequence.finished()) {
      for (float& logit : logits) logit = normal(draw);
      for (std::int32_t id = 3; id < 259; ++id) logits[static_cast<std::size_t>(id)] += 3;
      for (const char mark : {'"', '}', ']'}) {
        logits[static_cast<std::size_t>(3 + mark)] += mark == '}' ? 9 : 6;  // its byte token
        if (const auto id = tiny.tokenizer().id_of(std::string(1, mark))) {
          logits[static_cast<std::size_t>(*id)] += 9;
        }
      }
      const View<const float, Cpu> row(logits.data(), Shape{std::ssize(logits)});
      sequence.accept(ctx, row, TokenDraws<Cpu>(), 0);
    }
    const GenerationResult result = sequence.take_result();
    if (result.finish_reason != FinishReason::eos) continue;
    ++ended;
    for (const std::int32_t id : result.generated_ids) bytes += id >= 131 && id < 259;
    INFO(result.text);
    check_answer(nlohmann::json::parse(result.text));
  }
  CHECK(ended > 200);
  CHECK(bytes > 50);  // characters in pieces
}

/// A random text of a grammar, byte by byte; after `enough` bytes it closes what it can. Empty when
/// it does not end.
std::string random_text(GrammarMatcher& matcher, std::mt19937& draw, std::size_t enough) {
  std::string text;
  std::int32_t state = matcher.start();
  while (text.size() < enough + 400) {
    std::string bytes;
    for (int byte = 0; byte < 256; ++byte) {
      if (matcher.next(state, static_cast<std::uint8_t>(byte)) != GrammarMatcher::dead) {
        bytes += static_cast<char>(byte);
      }
    }
    const bool closing = text.size() >= enough;
    if (matcher.may_end(state) && (bytes.empty() || closing || draw() % 8 == 0)) return text;
    if (bytes.empty()) break;  // nothing goes on, and it may not end
    char next = bytes[draw() % bytes.size()];
    for (const char mark : {'t', '1', ']', '}', '"'}) {
      if ((closing || draw() % 4 == 0) && bytes.find(mark) != std::string::npos) next = mark;
    }
    text += next;
    state = matcher.next(state, static_cast<std::uint8_t>(next));
  }
  return {};
}

TEST_CASE("random texts of schemas of every kind parse, whatever bytes they are made of") {
  std::mt19937 draw(9);
  for (
      const char* schema :
      {"{}", R"({"type": "string"})", R"({"type": "string", "minLength": 2, "maxLength": 9})",
       R"({"type": "number"})", R"({"type": ["integer", "null", "boolean"]})",
       R"({"type": "array", "minItems": 1, "maxItems": 4})",
       R"({"type": "object", "required": ["x", "\"\\中"]})",
       R"({"properties": {"a": {"type": "string"}, "b": {}}, "additionalProperties": {"type": "array"}})",
       R"({"anyOf": [{"enum": ["\u0007\\", 1.5, {"a": [null]}]}, {"type": "object"}]})",
       R"({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "required": ["v"], "properties":
            {"n": {"$ref": "#/$defs/n"}, "v": {"const": "é"}}}}})"}) {
    INFO(schema);
    int ended = 0;
    std::size_t longest = 0;
    for (int round = 0; round < 60; ++round) {
      GrammarMatcher matcher(std::make_shared<const Grammar>(JsonSchema::grammar(schema)));
      const std::string text = random_text(matcher, draw, draw() % 60);
      if (text.empty()) continue;
      ++ended;
      longest = std::max(longest, text.size());
      INFO(text);
      CHECK(nlohmann::json::accept(text));
    }
    CHECK(ended > 50);
    CHECK(longest >= 4);
  }
}

TEST_CASE("a model's own answers follow a grammar, greedy or drawn") {
  const auto& tiny = fixture::ZiyaTiny::instance();
  Context<Cpu> ctx({.threads = 1});
  Generator generator(ctx, tiny.model(), tiny.tokenizer());
  const auto rules = grammar("root ::= [一-龥]{2,8} [。，]");
  GenerationConfig config{.max_new_tokens = 60, .top_k = 0, .top_p = 1};
  config.constraint = {rules, std::make_shared<const ConstraintVocabulary>(tiny.tokenizer())};
  const std::vector<std::int32_t> prompt = tiny.expected().at("poems")[0].at("prompt_ids");
  for (int round = 0; round < 20; ++round) {
    config.do_sample = round > 0;
    config.seed = static_cast<std::uint64_t>(round);
    const GenerationResult result = generator.generate(prompt, config);
    INFO(result.text);
    CHECK(result.finish_reason == FinishReason::eos);
    CHECK(accepts(rules, result.text));
  }
}

/// A reference: how a text may be read, without states. Every way that reads all of `text` and
/// waits for more is a beginning, every way that ends there a whole text.
struct NaiveReader {
  const Grammar& grammar;
  std::string_view text;
  bool begins = false;

  /// Where the alternative from `position` on may end, when it begins at `from`.
  std::set<std::size_t> ends(std::int32_t position, std::size_t from) {
    const Grammar::Symbol& symbol = grammar.symbol(position);
    if (symbol.kind == Grammar::Symbol::Kind::end) return {from};
    std::set<std::size_t> behind, result;
    if (symbol.kind == Grammar::Symbol::Kind::rule) {
      behind = rule_ends(symbol.index, from);
    } else if (from == text.size()) {
      begins = true;
    } else if (const auto c = static_cast<unsigned char>(text[from]);
               grammar.characters(symbol.index).meets(c, c)) {
      behind = {from + 1};
    }
    for (const std::size_t end : behind) result.merge(ends(position + 1, end));
    return result;
  }
  std::set<std::size_t> rule_ends(std::int32_t rule, std::size_t from) {
    std::set<std::size_t> result;
    for (const std::int32_t start : grammar.alternatives(rule)) result.merge(ends(start, from));
    return result;
  }
};

/// Alternatives of random symbols, of rules r0 … r2 and groups that nest `depth` deep.
std::string random_alternatives(std::mt19937& draw, int depth) {
  std::string text;
  for (auto more = draw() % 3 + 1; more > 0; --more) {
    for (auto items = draw() % 4; items > 0; --items) {
      const auto kind = draw() % (depth > 0 ? 8 : 6);
      if (kind < 4) {
        text += std::array{"\"a\" ", "[ab] ", "[^a] ", "\"ab\" "}[kind];
      } else if (kind < 6) {
        text += "r" + std::to_string(draw() % 3) + " ";
      } else {
        text += "(" + random_alternatives(draw, depth - 1) + ")";
        text += std::array{" ", "? ", "* ", "+ ", "{1,3} "}[draw() % 5];
      }
    }
    if (more > 1) text += "| ";
  }
  return text;
}

TEST_CASE("random grammars accept what a reader without states accepts, and begin where it does") {
  std::mt19937 draw(5);
  int grammars = 0, begun = 0, whole = 0;
  while (grammars < 400) {
    std::string rules = "root ::= " + random_alternatives(draw, 2) + "\n";
    for (int i = 0; i < 3; ++i) {
      rules += "r" + std::to_string(i) + " ::= " + random_alternatives(draw, 1) + "\n";
    }
    if (!refusal(rules).empty()) continue;  // left recursion, or endless
    ++grammars;
    const auto read = grammar(rules);
    for (int round = 0; round < 10; ++round) {
      GrammarMatcher matcher(read);
      std::int32_t state = matcher.start();
      std::string text;
      while (true) {
        INFO(rules << text);
        NaiveReader reference{*read, text};
        const bool ends = reference.rule_ends(0, 0).contains(text.size());
        REQUIRE((state != GrammarMatcher::dead) == (ends || reference.begins));
        if (state == GrammarMatcher::dead) break;
        REQUIRE(matcher.may_end(state) == ends);
        ++begun;
        whole += ends;
        if (text.size() == 7) break;
        if (draw() % 3 == 0) state = matcher.keep_only(state);
        text += draw() % 2 == 0 ? 'a' : 'b';
        state = matcher.next(state, static_cast<std::uint8_t>(text.back()));
      }
    }
  }
  CHECK(begun > 4000);
  CHECK(whole > 1000);
}

TEST_CASE("as many stacks as bytes, or exponentially many, are read in little work") {
  // The text may be the tree of any shape: n stacks that differ in their depth.
  CHECK(accepts("root ::= . root*", std::string(20'000, 'a')));
  // After n times "a", 2^n stacks of "b" and "c".
  const std::string pairs = "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"-\"";
  CHECK(accepts(pairs, std::string(200, 'a') + "-" + std::string(200, 'c')));
  CHECK_FALSE(accepts(pairs, std::string(200, 'a') + "-" + std::string(199, 'b')));
  CHECK(accepts("root ::= \"a\"* \"a\"{4000}", std::string(9000, 'a')));
}

TEST_CASE("what is nested too deeply to be followed is an error") {
  GrammarMatcher matcher(grammar("root ::= \"(\" root \")\" | \"x\""));
  std::int32_t state = matcher.start();
  const auto open = [&](int count) {
    for (int i = 0; i < count; ++i) state = matcher.next(state, '(');
  };
  open(1000);
  CHECK(state != GrammarMatcher::dead);
  REQUIRE_ERROR(open(40'000), "ZIYA-545", "nested too deeply");
}

TEST_CASE("tokens may be taken back, and a vocabulary without a way on is an error") {
  const auto rules = grammar("root ::= \"ab\" \"c\"?");
  const ConstraintVocabulary vocabulary({"a", "b", "ab", "c", "", "d"});
  GrammarProgress progress;
  const auto allowed = [&](const std::vector<std::int32_t>& answer) {
    std::vector<std::int32_t> ids;
    REQUIRE(progress.read(rules, vocabulary, answer, true));
    const TokenSet& set = progress.allowed();
    for (std::int32_t id = 0; id < 6; ++id) {
      if (set.contains(id)) ids.push_back(id);
    }
    return ids;
  };
  using Ids = std::vector<std::int32_t>;
  CHECK(allowed({}) == Ids{0, 2});
  CHECK(allowed({0}) == Ids{1});
  CHECK(allowed({2}) == Ids{3});
  CHECK(progress.may_end());
  CHECK(allowed({}) == Ids{0, 2});
  CHECK(allowed({0, 1, 3}).empty());
  CHECK(progress.may_end());
  CHECK_FALSE(progress.read(rules, vocabulary, Ids{3}, true));
  CHECK_FALSE(progress.read(rules, vocabulary, Ids{4}, true));
  CHECK_FALSE(progress.read(rules, vocabulary, Ids{77}, true));

  SamplerState state;
  const Constraint constraint{grammar("root ::= \"e\""),
                              std::make_shared<const ConstraintVocabulary>(vocabulary)};
  state.candidates.assign(std::vector<float>(6, 0.0f));
  REQUIRE_ERROR(GrammarConstraint(constraint, {4}).apply(state), "ZIYA-546", "no token");
}

}  // namespace grammar_test
