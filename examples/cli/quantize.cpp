// SPDX-License-Identifier: Apache-2.0
// `ziya quantize`: a model in fewer bits, as a GGUF file.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "commands.hpp"
#include "conversion.hpp"
#include "input.hpp"
#include "model.hpp"
#include "quantised_report.hpp"
#include "terminal.hpp"
#include "ziya/convert/digest.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/quantised_source.hpp"
#include "ziya/core/error.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/io/output_directory.hpp"
#include "ziya/model/importance.hpp"
#include "ziya/model/model_kind.hpp"
#include "ziya/text/tokenizer.hpp"

namespace cli {
namespace {

namespace fs = std::filesystem;

ziya::Importance calibrated(const QuantizeOptions& options, const fs::path& folder) {
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  const auto ids = tokenizer.encode(read_input(options.calibrate),
                                    {.mode = ziya::TokenizerMode::plain, .add_bos = true});
  const ModelOptions running{.model = options.model, .threads = options.threads};
  ziya::Context<ziya::Cpu> ctx(cpu_options(running));
  const ziya::CpuModel model = load_model(running, folder, options.context);
  ProgressBar bar("calibrating");
  ziya::CalibrationOptions calibration{.context = options.context, .bos = tokenizer.bos_id()};
  calibration.cancel = &cancelled;
  calibration.progress = [&bar](std::int64_t done, std::int64_t tokens) {
    bar.update(done, tokens, "tokens");
  };
  ziya::Importance importance = ziya::input_mean_squares(ctx, model, ids, calibration);
  bar.clear();
  note("calibrated on " + std::to_string(ids.size()) + " tokens of " + options.calibrate);
  return importance;
}

/// Other importance gives other bytes, so an interrupted run goes on only with the same.
std::string importance_digest(const ziya::Importance& importance) {
  ziya::Sha256 hash;
  for (const auto& [name, columns] : importance) {
    hash.update(name);
    hash.update(std::as_bytes(std::span(columns)));
  }
  return hash.hex_value();
}

}  // namespace

int run(const QuantizeOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const ziya::QuantisationMix mix = ziya::quantisation_mix(options.type);
  const fs::path output = ziya::path_from_utf8(options.output);
  ziya::refuse_existing(output, options.overwrite);
  const fs::path folder = ziya::resolve_model_path(ziya::path_from_utf8(options.model));
  ziya::refuse_overlap(output, folder, true);
  ziya::ModelSource model = ziya::gguf::is_gguf(ziya::find_weights(folder))
                                ? ziya::open_gguf_model(folder)
                                : ziya::open_hf_model(folder);
  if (ziya::model_kind(*model.tensors) == ziya::ModelKind::delta) {
    throw ziya::FormatError("ZIYA-434", options.model +
                                            ": is a delta, not a model; merge it with its base "
                                            "first: ziya merge-delta --base BASE --delta " +
                                            shell_word(options.model) + " --target TARGET");
  }
  catch_signals();
  ziya::Importance importance;
  if (!options.calibrate.empty()) importance = calibrated(options, folder);
  if (!options.calibrate.empty()) model.identity += " " + importance_digest(importance);
  model = ziya::with_source(std::move(model), "quantised to " + options.type +
                                                  (options.calibrate.empty() ? "" : ", calibrated"));
  const ziya::QuantisationPlan plan(mix, model.tensors->tensors(), options.keep);
  const auto source =
      std::make_shared<const ziya::QuantisedSource>(model.tensors, plan, std::move(importance));
  model.tensors = source;
  model.memories.push_back(ziya::memory_of(source));

  ProgressBar bar("quantising");
  ziya::ConvertOptions convert;
  convert.overwrite = options.overwrite;
  convert.resume = options.resume;
  convert.keep_unfinished = true;
  convert.needs = say_needs;
  convert.threads = options.threads;
  convert.cancel = &cancelled;
  convert.progress = [&bar](const ziya::ProgressEvent& event) {
    bar.update(event.bytes, event.total, event.tensor);
  };
  const ziya::ConvertReport report = ziya::write_gguf_model(model, output, convert);
  bar.finish();
  print_report(source->report(), options.type);
  std::int64_t elements = 0;
  for (const ziya::QuantisedTensor& tensor : source->report()) elements += tensor.elements;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  char summary[96];
  std::snprintf(summary, sizeof summary, "%.2f bits per weight, %.1f s",
                8.0 * static_cast<double>(report.bytes) / static_cast<double>(elements),
                seconds.count());
  note("quantised " + options.model + " -> " + options.output + ": " +
       std::to_string(report.tensors) + " tensors, " + bytes_text(report.bytes) + ", " + summary);
  return 0;
}

}  // namespace cli
