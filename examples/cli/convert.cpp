// SPDX-License-Identifier: Apache-2.0
// `ziya convert`: any format that is read to any format that is written.
#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base.hpp"
#include "commands.hpp"
#include "conversion.hpp"
#include "terminal.hpp"
#include "ziya/convert/checklist.hpp"
#include "ziya/convert/fengshen_source.hpp"
#include "ziya/convert/fengshen_writer.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/hf_writer.hpp"
#include "ziya/convert/lora_merge.hpp"
#include "ziya/convert/meta_source.hpp"
#include "ziya/convert/model_source.hpp"

namespace cli {
namespace {

namespace fs = std::filesystem;

/// A format that models are read from. The first that recognises the input is taken for "auto".
struct Reader {
  const char* name;
  bool (*recognises)(const fs::path& input, const ConvertOptions& options);
  ziya::ModelSource (*open)(const fs::path& input, const ConvertOptions& options);
};

/// A format that models are written in. The first that fits the output's name is taken for "auto".
struct Writer {
  const char* name;
  bool (*fits)(const fs::path& output);
  ziya::ConvertReport (*write)(const ziya::ModelSource& model, const fs::path& output,
                               const ziya::ConvertOptions& options,
                               const ConvertOptions& arguments);
};

/// Only what is used is compared: a person may have downloaded one size of several.
void compare_checksums(const ziya::MetaFolder& folder) {
  if (folder.checklist.empty()) return note("note: no checklist.chk; the weights are not compared");
  ProgressBar bar("comparing");
  const auto compared = ziya::verify_checklist(
      folder.checklist, [](const std::string& file) { return file != "tokenizer.model"; },
      [&bar](std::int64_t done, std::int64_t all) { bar.update(done, all, "checklist.chk"); },
      &cancelled);
  bar.finish();
  note("checklist.chk: " + std::to_string(compared) + " files are what it lists");
}

ziya::ModelSource open_meta(const fs::path& input, const ConvertOptions& options) {
  const ziya::MetaFolder folder = ziya::find_meta_folder(input, options.model_size);
  ziya::MetaOptions meta;
  meta.model_size = options.model_size;
  meta.max_positions = options.max_positions;
  ziya::ModelSource model = ziya::open_meta_model(input, meta);
  if (options.checksums) compare_checksums(folder);
  if (!options.max_positions) {
    const auto shape = ziya::parse_llama_shape(model.files.at("config.json"), "config.json");
    note("note: params.json does not say the context; taken as " +
         std::to_string(shape.max_positions) + " tokens (--max-positions)");
  }
  return model;
}

constexpr std::array readers{
    Reader{
        "gguf",
        [](const fs::path& input, const ConvertOptions&) {
          return ziya::gguf::is_gguf(ziya::find_weights(input));
        },
        [](const fs::path& input, const ConvertOptions&) { return ziya::open_gguf_model(input); }},
    Reader{"meta",
           [](const fs::path& input, const ConvertOptions& options) {
             const fs::path folder = ziya::expand_home(input);
             return !ziya::Checkpoint::exists(input) &&
                    (ziya::is_meta_folder(folder, options.model_size) ||
                     !ziya::meta_sizes(folder).empty());
           },
           open_meta},
    Reader{"fengshen",
           [](const fs::path& input, const ConvertOptions&) {
             return ziya::is_fengshen_folder(ziya::expand_home(input));
           },
           [](const fs::path& input, const ConvertOptions&) {
             return ziya::open_fengshen_model(input);
           }},
    Reader{"hf", [](const fs::path&, const ConvertOptions&) { return true; },
           [](const fs::path& input, const ConvertOptions&) { return ziya::open_hf_model(input); }},
};
constexpr std::array writers{
    Writer{"gguf", [](const fs::path& output) { return output.extension() == ".gguf"; },
           [](const ziya::ModelSource& model, const fs::path& output,
              const ziya::ConvertOptions& options,
              const ConvertOptions&) { return ziya::write_gguf_model(model, output, options); }},
    Writer{"fengshen", [](const fs::path&) { return false; },
           [](const ziya::ModelSource& model, const fs::path& output,
              const ziya::ConvertOptions& options, const ConvertOptions& arguments) {
             return ziya::write_fengshen_model(model, output, arguments.parts, options);
           }},
    Writer{"hf", [](const fs::path&) { return true; },
           [](const ziya::ModelSource& model, const fs::path& output,
              const ziya::ConvertOptions& options,
              const ConvertOptions&) { return ziya::write_hf_model(model, output, options); }},
};

template <class Format, std::size_t N>
const Format& named(const std::array<Format, N>& formats, const std::string& name,
                    const std::string& option) {
  std::string known;
  for (const Format& format : formats) {
    if (name == format.name) return format;
    known += std::string(known.empty() ? "" : ", ") + format.name;
  }
  throw UsageError("ZIYA-701", option + " " + name + ": expected one of " + known);
}

const Reader& reader_for(const ConvertOptions& options, const fs::path& input) {
  if (options.from != "auto") return named(readers, options.from, "--from");
  return *std::ranges::find_if(readers,
                               [&](const Reader& r) { return r.recognises(input, options); });
}
const Writer& writer_for(const ConvertOptions& options, const fs::path& output) {
  if (options.to != "auto") return named(writers, options.to, "--to");
  return *std::ranges::find_if(writers, [&](const Writer& w) { return w.fits(output); });
}

/// The reference writes what it reads from Meta's layout as fp16, whatever is stored.
std::optional<ziya::DType> type_of(const ConvertOptions& options, const Reader& reader) {
  if (options.type == "stored") return std::nullopt;
  if (options.type.empty()) {
    if (std::string_view(reader.name) == "meta") return ziya::DType::f16;
    return std::nullopt;
  }
  const auto type = ziya::dtype_from_name(options.type);
  if (!type || *type > ziya::DType::bf16) {
    throw UsageError("ZIYA-701", "--type " + options.type + ": expected stored, f32, f16 or bf16");
  }
  return type;
}

ziya::ModelSource with_adapter(const ziya::ModelSource& model, const ConvertOptions& options) {
  auto adapter = ziya::LoraAdapter::open(ziya::path_from_utf8(options.adapter));
  check_base(adapter, ziya::base_names(model.name, model.files.at("config.json")),
             options.any_base);
  note("adapter: " + std::to_string(adapter.pairs().size()) + " low-rank updates, " +
       std::to_string(adapter.replacements().size()) + " whole tensors");
  return ziya::merge_lora(model, std::move(adapter));
}

}  // namespace

int run(const ConvertOptions& options) {
  const fs::path input = ziya::path_from_utf8(options.input);
  const fs::path output = ziya::path_from_utf8(options.output);
  ProgressBar bar("converting");
  ziya::ConvertOptions convert;
  convert.overwrite = options.overwrite;
  convert.resume = options.resume;
  convert.threads = options.threads;
  convert.keep_unfinished = true;
  convert.needs = say_needs;
  if (!options.max_shard_size.empty()) {
    convert.max_shard_bytes = size_from_text(options.max_shard_size);
  }
  convert.cancel = &cancelled;
  convert.progress = [&bar](const ziya::ProgressEvent& event) {
    bar.update(event.bytes, event.total, event.tensor);
  };
  const Reader& reader = reader_for(options, input);
  const Writer& writer = writer_for(options, output);
  convert.type = type_of(options, reader);
  const bool one_file = std::string_view(writer.name) == "gguf";
  ziya::refuse_overlap(output, input, one_file);
  if (!options.adapter.empty()) {
    ziya::refuse_overlap(output, ziya::path_from_utf8(options.adapter), one_file);
  }
  catch_signals();
  ziya::ModelSource model = reader.open(input, options);
  if (!options.adapter.empty()) model = with_adapter(model, options);
  const ziya::ConvertReport report = writer.write(model, output, convert, options);
  bar.finish();
  for (const std::string& line : report.notes) note("note: " + printable(line));
  note("converted " + options.input + " (" + reader.name + ") -> " + options.output + " (" +
       writer.name + "): " + std::to_string(report.tensors) + " tensors, " +
       bytes_text(report.bytes) + " in " + std::to_string(report.files) +
       (report.files == 1 ? " file" : " files"));
  return 0;
}

}  // namespace cli
