// SPDX-License-Identifier: Apache-2.0
// `ziya fingerprint`: what a model is, whatever its files are called and however they are cut.
#include "ziya/convert/fingerprint.hpp"

#include <filesystem>
#include <string>
#include <system_error>

#include "commands.hpp"
#include "conversion.hpp"
#include "terminal.hpp"
#include "ziya/convert/known_files.hpp"
#include "ziya/convert/open_source.hpp"
#include "ziya/io/json.hpp"

namespace cli {
namespace {

int fingerprint_files(const FingerprintOptions& options, const ziya::OpenedSource& opened) {
  nlohmann::json json;
  std::string text;
  std::size_t known = 0;
  auto files = opened.files;
  std::error_code ignored;
  for (const auto& folder : {opened.path, opened.path.parent_path()}) {
    if (std::filesystem::is_regular_file(folder / "tokenizer.model", ignored)) {
      files.push_back(folder / "tokenizer.model");
      break;
    }
  }
  for (const auto& file : files) {
    ProgressBar bar("hashing");
    const std::string digits = ziya::file_sha256(
        file,
        {.progress = [&](const auto& event) { bar.update(event.bytes, event.total, event.tensor); },
         .cancel = &cancelled});
    bar.clear();
    const auto what = ziya::known_file(digits);
    known += what.has_value();
    const std::string name = ziya::utf8_from_path(file.filename());
    text += digits + "  " + printable(name) + (what ? "  " + std::string(*what) : "") + "\n";
    json["files"].push_back(
        {{"name", name}, {"sha256", digits}, {"known", what ? nlohmann::json(*what) : nullptr}});
  }
  print(options.json ? json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                     : text);
  note(std::to_string(known) + " of " + std::to_string(files.size()) +
       " files are known to be published; known are LLaMA-7B's and 13B's weights, the tokenizer, "
       "and "
       "the first three of the 28 shards of Ziya-LLaMA-13B's delta; the hashes of the other 25 are "
       "not public here");
  return 0;
}

}  // namespace

int run(const FingerprintOptions& options) {
  catch_signals();
  const ziya::OpenedSource opened = ziya::open_source(ziya::path_from_utf8(options.model));
  for (const std::string& line : opened.notes) note("note: " + printable(line));
  if (options.files) return fingerprint_files(options, opened);
  ProgressBar bar("hashing");
  ziya::StreamOptions streaming;
  streaming.threads = options.threads;
  streaming.cancel = &cancelled;
  streaming.progress = [&](const ziya::ProgressEvent& event) {
    bar.update(event.bytes, event.total, event.tensor);
  };
  const ziya::Fingerprint found = ziya::fingerprint(*opened.source, streaming);
  bar.clear();
  const std::string model = found.model();
  const auto recorded = opened.metadata.find("ziya.fingerprint");
  if (options.json) {
    nlohmann::json json{{"model", model}, {"tensors", found.tensors}};
    if (recorded != opened.metadata.end()) json["recorded"] = recorded->second;
    print(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  } else {
    std::string text;
    for (const auto& [name, digits] : found.tensors) {
      text += digits + "  " + printable(name) + "\n";
    }
    print(text + model + "  (model)\n");
  }
  if (recorded == opened.metadata.end()) return 0;
  if (recorded->second != model) {
    throw ziya::FormatError("ZIYA-656", ziya::utf8_from_path(opened.path) +
                                            ": the weights are not those that were written: "
                                            "fingerprint " +
                                            model + ", recorded " + recorded->second);
  }
  note("the weights are those that were written");
  return 0;
}

}  // namespace cli
