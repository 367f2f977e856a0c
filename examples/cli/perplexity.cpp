// SPDX-License-Identifier: Apache-2.0
// `ziya perplexity`: how well a model predicts a text.
#include "ziya/generate/perplexity.hpp"

#include <cstdio>
#include <filesystem>
#include <string>

#include "commands.hpp"
#include "conversion.hpp"
#include "input.hpp"
#include "json_text.hpp"
#include "session.hpp"
#include "terminal.hpp"
#include "ziya/io/model_path.hpp"
#include "ziya/text/tokenizer.hpp"

namespace cli {
namespace {

std::string number(double value, const char* format = "%.6g") {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

void print_json(const PerplexityOptions& options, const ziya::PerplexityResult& result) {
  std::string text = "{\"method\": " + json_text(options.method) +
                     ", \"context\": " + std::to_string(options.context) +
                     ", \"tokens\": " + std::to_string(result.tokens) +
                     ", \"windows\": " + std::to_string(result.windows) +
                     ", \"perplexity\": " + number(result.perplexity, "%.9g") +
                     ", \"uncertainty\": " + number(result.uncertainty, "%.9g");
  if (!options.against.empty()) {
    text += ", \"against\": {\"model\": " + json_text(options.against) +
            ", \"perplexity\": " + number(result.other_perplexity, "%.9g") +
            ", \"mean_kl_divergence\": " + number(result.kl_divergence, "%.9g") +
            ", \"top_agreement\": " + number(result.top_agreement, "%.9g") + "}";
  }
  print(text + "}\n");
}

}  // namespace

int run(const PerplexityOptions& options) {
  const auto folder = ziya::resolve_model_folder(ziya::path_from_utf8(options.model.model));
  const ziya::Tokenizer tokenizer = ziya::Tokenizer::load(folder);
  const std::vector<std::int32_t> ids = tokenizer.encode(
      read_input(options.file), {.mode = ziya::TokenizerMode::plain, .add_bos = true});
  ziya::PerplexityOptions measure;
  const bool strided = options.method == "strided";
  measure.method = strided ? ziya::PerplexityMethod::strided : ziya::PerplexityMethod::llama_cpp;
  measure.context = options.context;
  measure.stride =
      options.stride > 0 ? options.stride : std::max<std::int64_t>(1, options.context / 2);
  measure.windows = options.windows;
  measure.bos = tokenizer.bos_id();
  measure.cancel = &cancelled;
  ProgressBar bar("measuring");
  measure.progress = [&](const ziya::PerplexityProgress& at) {
    bar.update(at.window, at.windows, "perplexity " + number(at.perplexity));
  };
  (void)ziya::detail::perplexity_windows(static_cast<std::int64_t>(ids.size()), measure);
  ScoringSetup setup{options.model, folder};
  setup.tokens = setup.chunk = options.context;
  if (!options.against.empty()) {
    setup.against = ziya::resolve_model_folder(ziya::path_from_utf8(options.against));
  }
  const auto model = make_scoring(setup);
  catch_signals();
  const ziya::PerplexityResult result = model->perplexity(ids, measure);
  bar.clear();
  if (options.json) {
    print_json(options, result);
    return 0;
  }
  std::string text = "perplexity " + number(result.perplexity, "%.4f") + " ± " +
                     number(result.uncertainty, "%.4f") + " (method " + options.method +
                     ", context " + std::to_string(options.context);
  if (strided) text += ", stride " + std::to_string(measure.stride);
  text += ", " + std::to_string(result.tokens) + " tokens in " + std::to_string(result.windows) +
          (result.windows == 1 ? " window)\n" : " windows)\n");
  if (!options.against.empty()) {
    text += "against " + printable(options.against) + " (perplexity " +
            number(result.other_perplexity, "%.4f") + "): mean KL divergence " +
            number(result.kl_divergence) + " nats, the same likeliest token in " +
            number(100 * result.top_agreement, "%.2f") + " % of places\n";
  }
  print(text);
  return 0;
}

}  // namespace cli
