// SPDX-License-Identifier: Apache-2.0
// `ziya convert`: any format that is read to any format that is written.
#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <string_view>

#include "commands.hpp"
#include "conversion.hpp"
#include "terminal.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/hf_writer.hpp"
#include "ziya/convert/model_source.hpp"

namespace cli {
namespace {

namespace fs = std::filesystem;

/// A format that models are read from. The first that recognises the input is taken for "auto".
struct Reader {
  const char* name;
  bool (*recognises)(const fs::path& input);
  ziya::ModelSource (*open)(const fs::path& input, const ConvertOptions& options);
};

/// A format that models are written in. The first that fits the output's name is taken for "auto".
struct Writer {
  const char* name;
  bool (*fits)(const fs::path& output);
  ziya::ConvertReport (*write)(const ziya::ModelSource& model, const fs::path& output,
                               const ziya::ConvertOptions& options);
};

constexpr std::array readers{
    Reader{
        "gguf",
        [](const fs::path& input) { return ziya::gguf::is_gguf(ziya::find_weights(input)); },
        [](const fs::path& input, const ConvertOptions&) { return ziya::open_gguf_model(input); }},
    Reader{"hf", [](const fs::path&) { return true; },
           [](const fs::path& input, const ConvertOptions&) { return ziya::open_hf_model(input); }},
};
constexpr std::array writers{
    Writer{"gguf", [](const fs::path& output) { return output.extension() == ".gguf"; },
           ziya::write_gguf_model},
    Writer{"hf", [](const fs::path&) { return true; }, ziya::write_hf_model},
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
  return *std::ranges::find_if(readers, [&](const Reader& r) { return r.recognises(input); });
}
const Writer& writer_for(const ConvertOptions& options, const fs::path& output) {
  if (options.to != "auto") return named(writers, options.to, "--to");
  return *std::ranges::find_if(writers, [&](const Writer& w) { return w.fits(output); });
}

}  // namespace

int run(const ConvertOptions& options) {
  const fs::path input = ziya::path_from_utf8(options.input);
  const fs::path output = ziya::path_from_utf8(options.output);
  ProgressBar bar("converting");
  ziya::ConvertOptions convert;
  if (!options.type.empty()) {
    convert.type = ziya::dtype_from_name(options.type);
    if (!convert.type || *convert.type > ziya::DType::bf16) {
      throw UsageError("ZIYA-701", "--type " + options.type + ": expected f32, f16 or bf16");
    }
  }
  convert.overwrite = options.overwrite;
  if (!options.max_shard_size.empty()) {
    convert.max_shard_bytes = size_from_text(options.max_shard_size);
  }
  convert.cancel = &cancelled;
  convert.progress = [&bar](const ziya::ProgressEvent& event) {
    bar.update(event.bytes, event.total, event.tensor);
  };
  const Reader& reader = reader_for(options, input);
  const Writer& writer = writer_for(options, output);
  catch_signals();
  const ziya::ModelSource model = reader.open(input, options);
  const ziya::ConvertReport report = writer.write(model, output, convert);
  bar.finish();
  for (const std::string& line : report.notes) note("note: " + printable(line));
  note("converted " + options.input + " (" + reader.name + ") -> " + options.output + " (" +
       writer.name + "): " + std::to_string(report.tensors) + " tensors, " +
       bytes_text(report.bytes) + " in " + std::to_string(report.files) +
       (report.files == 1 ? " file" : " files"));
  return 0;
}

}  // namespace cli
