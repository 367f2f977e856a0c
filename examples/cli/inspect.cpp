// SPDX-License-Identifier: Apache-2.0
// `ziya inspect`: what a folder holds, what running it takes, and what is wrong with it.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "commands.hpp"
#include "memory.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/backend/cpu/quantize/dequantise_row.hpp"
#include "ziya/convert/fingerprint.hpp"
#include "ziya/convert/open_source.hpp"
#include "ziya/convert/verify_archives.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/json.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/gguf_config.hpp"
#include "ziya/model/llama_config.hpp"
#include "ziya/model/model_kind.hpp"
#include "ziya/text/tokenizer.hpp"

namespace cli {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

struct Format {
  std::int64_t tensors = 0, elements = 0, bytes = 0;
};

struct Unusual {
  std::string tensor;
  std::int64_t nan = 0, infinite = 0;
};

/// What was found; a part that is absent or broken stays empty.
struct Findings {
  fs::path folder;
  std::string kind;         // ziya::ModelKind's name, or tokenizer
  std::string fingerprint;  // empty: not asked for
  std::optional<ziya::OpenedSource> weights;
  std::string file_format;                     // safetensors, pytorch or gguf
  std::optional<ziya::Checkpoint> checkpoint;  // where the files are a model's as they are
  std::map<std::string, Format> formats;
  std::optional<ziya::LlamaShape> shape;
  std::optional<MemoryNeed> need;
  std::optional<ziya::Tokenizer> tokenizer;
  Json generation_defaults;
  std::optional<std::vector<Unusual>> scan;  // none: not scanned
  std::vector<ziya::Error> problems;

  /// What a layout without config.json says in its own way; null where there is none.
  [[nodiscard]] const std::string* config() const {
    return weights && !weights->config.empty() ? &weights->config : nullptr;
  }
  [[nodiscard]] std::int64_t parameters() const {
    std::int64_t sum = 0;
    for (const auto& [name, format] : formats) sum += format.elements;
    return sum;
  }
};

/// Runs one part of the inspection; what it throws is a finding too.
template <class F>
void attempt(Findings& found, F&& part) {
  try {
    part();
  } catch (const ziya::Error& error) {
    found.problems.push_back(error);
  }
}

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

template <class T>
void count_unusual(std::span<const std::byte> bytes, Unusual& counts) {
  const auto* values = reinterpret_cast<const T*>(bytes.data());
  for (std::size_t i = 0; i < bytes.size() / sizeof(T); ++i) {
    const float value = ziya::to_float(values[i]);
    counts.nan += std::isnan(value);
    counts.infinite += std::isinf(value);
  }
}

std::vector<Unusual> scan(const ziya::TensorSource& source) {
  constexpr std::int64_t chunk = std::int64_t{1} << 20;  // elements
  std::vector<Unusual> result;
  std::vector<std::byte> buffer;
  std::vector<float> values;  // of quantised blocks
  ProgressBar bar("scanning weights");
  std::int64_t done = 0, all = 0;
  for (const ziya::TensorSpec& tensor : source.tensors()) all += tensor.bytes();
  for (std::size_t i = 0; i < source.tensors().size(); ++i) {
    const ziya::TensorSpec& tensor = source.tensors()[i];
    Unusual counts{tensor.name};
    for (std::int64_t first = 0; first < tensor.shape.elements(); first += chunk) {
      const std::int64_t count = std::min(chunk, tensor.shape.elements() - first);
      buffer.resize(static_cast<std::size_t>(bytes_of(tensor.dtype, count)));
      source.read(i, first, buffer);
      if (tensor.dtype == ziya::DType::f32) count_unusual<float>(buffer, counts);
      if (tensor.dtype == ziya::DType::f16) count_unusual<ziya::Half>(buffer, counts);
      if (tensor.dtype == ziya::DType::bf16) count_unusual<ziya::BFloat16>(buffer, counts);
      if (is_quantised(tensor.dtype)) {
        values.resize(static_cast<std::size_t>(count));
        ziya::quantize::dequantise_row(tensor.dtype, buffer.data(), values.data(), count);
        count_unusual<float>(std::as_bytes(std::span(values)), counts);
      }
      done += static_cast<std::int64_t>(buffer.size());
      bar.update(done, all, tensor.name);
    }
    if (counts.nan + counts.infinite > 0) result.push_back(counts);
  }
  return result;
}

void inspect_weights(Findings& found, const InspectOptions& options) {
  if (ziya::Checkpoint::exists(found.folder)) {
    found.checkpoint = ziya::Checkpoint::open(found.folder);
    found.file_format = name(found.checkpoint->format());
    found.weights.emplace();
    found.weights->source = std::make_shared<const ziya::CheckpointSource>(*found.checkpoint);
    found.weights->metadata = found.checkpoint->metadata();
    found.weights->notes = found.checkpoint->notes();
    for (const auto& file : found.checkpoint->files()) {
      found.weights->files.push_back(file->file().path());
    }
  } else {
    found.weights = ziya::open_source(found.folder);
    found.file_format = name(ziya::TensorFile(found.weights->files.front()).format());
  }
  const ziya::TensorSource& source = *found.weights->source;
  found.kind = name(found.weights->kind());
  for (const std::string& line : found.weights->notes) note("note: " + printable(line));
  if (options.fingerprint) found.fingerprint = ziya::fingerprint(source).model();
  std::int64_t bytes = 0;
  for (const ziya::TensorSpec& tensor : source.tensors()) {
    bytes += tensor.bytes();
    if (ziya::llama_names::is_rotary_cache(tensor.name)) continue;
    Format& format = found.formats[std::string(name(tensor.dtype))];
    ++format.tensors;
    format.elements += tensor.shape.elements();
    format.bytes += tensor.bytes();
  }
  constexpr std::int64_t quick = 2'000'000'000;
  if (options.scan.value_or(bytes < quick)) {
    found.scan = scan(source);
    for (const auto& file : found.weights->files) {
      attempt(found, [&] { (void)ziya::verify_archives({file}); });
    }
    if (!found.scan->empty()) {
      const Unusual& first = found.scan->front();
      const std::string place = source.place(find_tensor(source, first.tensor));
      found.problems.emplace_back(
          "ZIYA-705", (place.empty() ? ziya::utf8_from_path(found.folder) : place) + ": tensor " +
                          first.tensor + " holds " + std::to_string(first.nan) + " NaN and " +
                          std::to_string(first.infinite) + " infinite values (" +
                          std::to_string(found.scan->size()) + " such tensors in all)");
    }
  }
}

Findings inspect(const InspectOptions& options) {
  Findings found;
  const fs::path path = ziya::resolve_model_path(ziya::path_from_utf8(options.model));
  found.folder = path;
  const bool weights = ziya::is_source(path);
  const bool gguf = ziya::gguf::is_gguf(ziya::find_weights(path));  // holds everything itself
  const fs::path side = gguf || fs::is_directory(path) ? path : path.parent_path();
  found.kind = weights ? "unknown" : "tokenizer";
  if (weights) attempt(found, [&] { inspect_weights(found, options); });

  const bool config = gguf || is_file(side / "config.json");
  if (config && !found.config()) {
    attempt(found, [&] { found.shape = ziya::read_llama_shape(side); });
  } else if (found.config()) {
    attempt(found, [&] { found.shape = ziya::parse_llama_shape(*found.config(), "config.json"); });
  }
  if (found.shape && found.shape->vocabulary == ziya::unknown_vocabulary && found.checkpoint) {
    const auto* table = found.checkpoint->find(ziya::llama_names::embedding);
    if (table != nullptr && table->shape.rank() == 2) found.shape->vocabulary = table->shape[0];
  }
  if (found.shape && found.checkpoint) {
    found.need = memory_need(*found.checkpoint, *found.shape, std::nullopt, ziya::DType::f32,
                             found.shape->max_positions);
  }
  const bool tokenizer =
      gguf || is_file(side / "tokenizer.model") || is_file(side / "tokenizer.json");
  if (tokenizer) attempt(found, [&] { found.tokenizer = ziya::Tokenizer::load(side); });
  if (gguf && found.checkpoint) {
    attempt(found, [&] {
      found.generation_defaults = ziya::gguf::ConfigMaker(*found.checkpoint).make_generation();
    });
  } else if (is_file(side / "generation_config.json")) {
    attempt(found, [&] {
      found.generation_defaults = ziya::read_json_file(side / "generation_config.json");
    });
  }
  if (!weights && !config && !tokenizer) {
    throw ziya::FormatError("ZIYA-704", ziya::utf8_from_path(path) +
                                            ": holds neither weights nor config.json nor a "
                                            "tokenizer; expected a folder in Hugging Face layout");
  }
  if (found.kind == "model" && found.shape && found.checkpoint) {
    attempt(found, [&] { check_loadable(*found.checkpoint, *found.shape); });
  }
  if (found.shape && found.tokenizer && found.kind != "delta" &&
      found.tokenizer->vocabulary_size() > found.shape->vocabulary) {
    found.problems.emplace_back("ZIYA-525", ziya::utf8_from_path(side) + ": the tokenizer has " +
                                                std::to_string(found.tokenizer->vocabulary_size()) +
                                                " tokens, but the embedding only " +
                                                std::to_string(found.shape->vocabulary) + " rows");
  }
  return found;
}

const char* scaling_name(ziya::RopeScaling::Kind kind) {
  switch (kind) {
    case ziya::RopeScaling::Kind::none:
      return "none";
    case ziya::RopeScaling::Kind::linear:
      return "linear";
    case ziya::RopeScaling::Kind::dynamic:
      return "dynamic";
    case ziya::RopeScaling::Kind::llama3:
      return "llama3";
  }
  return "";
}

Json shape_json(const ziya::LlamaShape& shape) {
  Json scaling;
  if (shape.rope_scaling.kind != ziya::RopeScaling::Kind::none) {
    scaling = {{"type", scaling_name(shape.rope_scaling.kind)},
               {"factor", shape.rope_scaling.factor}};
  }
  return {{"hidden_size", shape.hidden},
          {"intermediate_size", shape.intermediate},
          {"num_hidden_layers", shape.layers},
          {"num_attention_heads", shape.query_heads},
          {"num_key_value_heads", shape.kv_heads},
          {"head_dim", shape.head_dim},
          {"vocab_size", shape.vocabulary},
          {"max_position_embeddings", shape.max_positions},
          {"rms_norm_eps", shape.rms_eps},
          {"rope_theta", shape.rope_base},
          {"rope_scaling", scaling},
          {"tie_word_embeddings", shape.tied_head}};
}

Json tokenizer_json(const ziya::Tokenizer& tokenizer) {
  Json added = Json::object();
  for (std::int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    if (tokenizer.is_added(id)) added[tokenizer.piece(id)] = id;
  }
  const auto number = [](std::int32_t id) { return id >= 0 ? Json(id) : Json(); };
  return {{"vocabulary_size", tokenizer.vocabulary_size()},
          {"unk_id", number(tokenizer.unk_id())},
          {"bos_id", number(tokenizer.bos_id())},
          {"eos_id", number(tokenizer.eos_id())},
          {"pad_id", number(tokenizer.pad_id().value_or(-1))},
          {"added_tokens", added}};
}

Json to_json(const Findings& found) {
  Json json{{"path", ziya::utf8_from_path(found.folder)}, {"kind", found.kind}};
  if (found.weights) {
    json["format"] = found.file_format;
    json["files"] = found.weights->files.size();
    json["parameters"] = found.parameters();
    json["formats"] = Json::object();
    for (const auto& [name, format] : found.formats) {
      json["formats"][name] = {
          {"tensors", format.tensors}, {"parameters", format.elements}, {"bytes", format.bytes}};
    }
    if (!found.fingerprint.empty()) json["fingerprint"] = found.fingerprint;
    if (!found.weights->metadata.empty()) json["metadata"] = found.weights->metadata;
  }
  if (found.shape) json["shape"] = shape_json(*found.shape);
  if (found.need) {
    json["memory"] = {{"weights_bytes", found.need->weights},
                      {"cache_bytes_per_token", found.shape->cache_bytes_per_token()},
                      {"cache_tokens", found.need->tokens},
                      {"cache_bytes", found.need->cache},
                      {"total_bytes", found.need->total()},
                      {"available_bytes", available_memory() ? Json(*available_memory()) : Json()}};
  }
  if (found.weights) {
    Json tensors = Json::array();
    std::int64_t nan = 0, infinite = 0;
    for (const Unusual& tensor : found.scan.value_or(std::vector<Unusual>{})) {
      tensors.push_back({{"name", tensor.tensor}, {"nan", tensor.nan}, {"inf", tensor.infinite}});
      nan += tensor.nan, infinite += tensor.infinite;
    }
    json["scan"] = {{"done", found.scan.has_value()},
                    {"nan", found.scan ? Json(nan) : Json()},
                    {"inf", found.scan ? Json(infinite) : Json()},
                    {"tensors", tensors}};
  }
  if (found.tokenizer) json["tokenizer"] = tokenizer_json(*found.tokenizer);
  if (!found.generation_defaults.is_null()) json["generation_defaults"] = found.generation_defaults;
  json["problems"] = Json::array();
  for (const ziya::Error& problem : found.problems) json["problems"].push_back(problem.what());
  return json;
}

/// 13,091,886,080
std::string grouped(std::int64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t at = text.size(); at > 3; at -= 3) text.insert(at - 3, ",");
  return text;
}

std::string to_text(const Findings& found) {
  std::string text = printable(ziya::utf8_from_path(found.folder)) + ": " + found.kind + "\n";
  const auto line = [&](std::string label, const std::string& value) {
    label.resize(std::max<std::size_t>(14, label.size() + 2), ' ');
    text += "  " + label + printable(value) + "\n";
  };
  const auto next = [&](const std::string& what, const std::string& command) {
    line("", what);
    line("", command);
  };
  const std::string path = ziya::utf8_from_path(found.folder);
  if (found.kind == "delta") {
    next("only the difference to a base; to get the model:",
         "ziya merge-delta --base BASE --delta " + path + " --target TARGET");
  } else if (found.kind == "adapter") {
    next("low-rank updates of a model; to run it with them:",
         "ziya generate MODEL --adapter " + path + " -p \"...\"");
  } else if (found.config() != nullptr) {
    next("its layout is not Hugging Face's; to run it:",
         "ziya convert --input " + path + " --output TARGET");
  }
  if (found.weights) {
    const std::size_t files = found.weights->files.size();
    line("format", found.file_format + ", " + std::to_string(files) +
                       (files == 1 ? " file" : " files"));
    line("parameters", grouped(found.parameters()));
    for (const auto& [name, format] : found.formats) {
      line("stored as",
           name + ": " + std::to_string(format.tensors) + " tensors, " + bytes_text(format.bytes));
    }
    if (!found.fingerprint.empty()) line("fingerprint", found.fingerprint);
    for (const auto& [key, value] : found.weights->metadata) {
      if (key != "format" && key != "ziya.sha256") line(key, value);
    }
  }
  if (found.shape) {
    const ziya::LlamaShape& shape = *found.shape;
    line("shape", std::to_string(shape.layers) + " layers, hidden " + std::to_string(shape.hidden) +
                      ", intermediate " + std::to_string(shape.intermediate) + ", " +
                      std::to_string(shape.query_heads) + " heads of " +
                      std::to_string(shape.head_dim) +
                      (shape.kv_heads == shape.query_heads
                           ? ""
                           : " (" + std::to_string(shape.kv_heads) + " for keys and values)") +
                      ", vocabulary " + std::to_string(shape.vocabulary) +
                      (shape.tied_head ? " (head tied to the embedding)" : "") + ", " +
                      std::to_string(shape.max_positions) + " positions");
    if (shape.rope_scaling.kind != ziya::RopeScaling::Kind::none) {
      line("rope", std::string("scaling ") + scaling_name(shape.rope_scaling.kind) + ", factor " +
                       std::to_string(shape.rope_scaling.factor));
    }
  }
  if (found.need && found.kind == "model") {
    const auto free = available_memory();
    line("memory", bytes_text(found.need->total()) + " to run: " + bytes_text(found.need->weights) +
                       " weights, mapped, and " + bytes_text(found.need->cache) + " cache of " +
                       std::to_string(found.need->tokens) + " tokens (" +
                       bytes_text(found.shape->cache_bytes_per_token()) + " each)" +
                       (free ? "; " + bytes_text(*free) + " are free" : ""));
  }
  if (found.tokenizer) {
    const Json json = tokenizer_json(*found.tokenizer);
    std::string added;
    for (const auto& [token, id] : json["added_tokens"].items()) {
      added += ", " + token + " " + id.dump();
    }
    line("tokenizer", grouped(found.tokenizer->vocabulary_size()) + " tokens, bos " +
                          json["bos_id"].dump() + ", eos " + json["eos_id"].dump() + added);
  }
  if (!found.generation_defaults.is_null()) {
    std::string defaults;
    for (const auto& [key, value] : found.generation_defaults.items()) {
      if (key.starts_with("_") || key == "transformers_version") continue;
      defaults += (defaults.empty() ? "" : ", ") + key + " " + value.dump();
    }
    line("generation", defaults);
  }
  if (found.weights) {
    line("weights", !found.scan           ? "not scanned for NaN and infinity (--scan does)"
                    : found.scan->empty() ? "no NaN, no infinity"
                                          : "hold NaN or infinite values");
  }
  return text;
}

}  // namespace

int run(const InspectOptions& options) {
  const Findings found = inspect(options);
  print(options.json ? to_json(found).dump(2, ' ', false, Json::error_handler_t::replace) + "\n"
                     : to_text(found));
  for (std::size_t i = 1; i < found.problems.size(); ++i) {
    note(std::string("error: ") + found.problems[i].what());
  }
  if (!found.problems.empty()) throw found.problems.front();
  return 0;
}

}  // namespace cli
