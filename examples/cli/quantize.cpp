// SPDX-License-Identifier: Apache-2.0
// `ziya quantize`: a model in fewer bits, as a GGUF file.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "commands.hpp"
#include "conversion.hpp"
#include "input.hpp"
#include "model.hpp"
#include "terminal.hpp"
#include "ziya/convert/gguf_model.hpp"
#include "ziya/convert/quantised_source.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/model/importance.hpp"
#include "ziya/text/tokenizer.hpp"

namespace cli {
namespace {

namespace fs = std::filesystem;

ziya::Importance calibrated(const QuantizeOptions& options, const fs::path& folder) {
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  const auto ids = tokenizer.encode(read_input(options.calibrate),
                                    {.mode = ziya::TokenizerMode::plain, .add_bos = true});
  const ModelOptions running{.model = options.model, .threads = options.threads};
  ziya::Context<ziya::Cpu> ctx(context_options(running));
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

/// One line per tensor on standard output; rotary caches are not written.
void print_report(const std::vector<ziya::QuantisedTensor>& report) {
  std::size_t widest = 6;
  for (const ziya::QuantisedTensor& tensor : report) widest = std::max(widest, tensor.name.size());
  const auto line = [&](const std::string& name, const char* type, const char* rmse,
                        const char* relative, const std::string& bytes, const std::string& reason) {
    char text[160];
    std::snprintf(text, sizeof text, "  %-7s %10s %9s  %9s  ", type, rmse, relative, bytes.c_str());
    print(printable(name) + std::string(widest - name.size(), ' ') + text + reason + "\n");
  };
  line("tensor", "type", "rmse", "relative", "size", "");
  for (const ziya::QuantisedTensor& tensor : report) {
    if (ziya::llama_names::is_rotary_cache(tensor.name)) continue;
    char rmse[32], relative[32];
    std::snprintf(rmse, sizeof rmse, "%.3e", tensor.rmse());
    std::snprintf(relative, sizeof relative, "%.4f %%", 100 * tensor.relative_rmse());
    line(tensor.name, std::string(ziya::name(tensor.to)).c_str(), rmse, relative,
         bytes_text(tensor.bytes), tensor.reason);
  }
}

}  // namespace

int run(const QuantizeOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  const ziya::QuantisationMix mix = ziya::quantisation_mix(options.type);
  const fs::path output = ziya::path_from_utf8(options.output);
  std::error_code ignored;
  if (!options.overwrite && fs::exists(ziya::expand_home(output), ignored)) {
    throw ziya::ArgumentError("ZIYA-208", options.output +
                                              ": exists already; choose another, or "
                                              "overwrite it (--overwrite)");
  }
  const fs::path folder = ziya::resolve_model_path(ziya::path_from_utf8(options.model));
  ziya::ModelSource model = ziya::gguf::is_gguf(ziya::find_weights(folder))
                                ? ziya::open_gguf_model(folder)
                                : ziya::open_hf_model(folder);
  catch_signals();
  ziya::Importance importance;
  if (!options.calibrate.empty()) importance = calibrated(options, folder);
  const ziya::QuantisationPlan plan(mix, model.tensors->tensors(), options.keep);
  const auto source =
      std::make_shared<const ziya::QuantisedSource>(model.tensors, plan, std::move(importance));
  model.tensors = source;

  ProgressBar bar("quantising");
  ziya::ConvertOptions convert;
  convert.overwrite = options.overwrite;
  convert.threads = options.threads;
  convert.cancel = &cancelled;
  convert.progress = [&bar](const ziya::ProgressEvent& event) {
    bar.update(event.bytes, event.total, event.tensor);
  };
  const ziya::ConvertReport report = ziya::write_gguf_model(model, output, convert);
  bar.finish();
  print_report(source->report());
  std::int64_t fallbacks = 0, elements = 0;
  for (const ziya::QuantisedTensor& tensor : source->report()) {
    fallbacks += tensor.reason.find("not whole blocks") != std::string::npos ? 1 : 0;
    elements += tensor.elements;
  }
  if (fallbacks > 0) {
    note("note: " + std::to_string(fallbacks) + " tensors have rows that blocks of " +
         options.type + " do not divide; they are stored in the types that the report shows");
  }
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
