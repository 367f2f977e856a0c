// SPDX-License-Identifier: Apache-2.0
// The model behind generate and chat.
#include "session.hpp"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include "memory.hpp"
#include "model.hpp"
#include "terminal.hpp"
#include "ziya/convert/forward_check.hpp"
#include "ziya/convert/merge_check.hpp"
#include "ziya/convert/merge_pair.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/ziya.hpp"

namespace cli {

ziya::CpuOptions context_options(const ModelOptions& options) {
  if (options.device != "auto" && options.device != "cpu") {
    throw ziya::BackendError("ZIYA-702", "--device " + options.device +
                                             ": what this command does runs on the CPU only; "
                                             "use --device cpu");
  }
  ziya::CpuOptions result{.threads = options.threads};
  if (options.isa == "auto") return result;
  result.isa = ziya::isa_from_name(options.isa);
  if (!result.isa) {
    throw UsageError("ZIYA-701",
                     "--isa " + options.isa + ": expected auto, eigen, baseline, avx2 or avx512");
  }
  return result;
}

namespace {

/// The type that --dtype names; none for "auto".
std::optional<ziya::DType> weight_type(const std::string& name) {
  return name == "int8" ? ziya::DType::i8 : ziya::dtype_from_name(name);
}

/// The type of keys and values: on the CPU they are exact where nothing is said.
ziya::DType cache_type(const ModelOptions& options) {
  return ziya::dtype_from_name(options.cache_dtype).value_or(ziya::DType::f32);
}

/// Says what a copy takes, and warns when running takes more memory than is free.
void say_memory(const std::filesystem::path& folder, std::optional<ziya::DType> dtype,
                ziya::DType cache_dtype, std::int64_t tokens) {
  const ziya::LlamaShape shape = ziya::read_llama_shape(folder);
  const MemoryNeed need = memory_need(ziya::Checkpoint::open(folder), shape, dtype, cache_dtype,
                                      std::min(tokens, ziya::context_limit(shape)));
  if (need.copies > 0) {
    note("weights: a copy in " + std::string(name(*dtype)) + " takes " + bytes_text(need.copies) +
         " of memory");
  }
  const auto free = available_memory();
  if (free && need.total() > *free) {
    note("warning: running this takes about " + bytes_text(need.total()) + " of memory, but " +
         bytes_text(*free) + " are free: it will be slow, or the system will end it");
  }
}

/// Base and delta are added while they are read; the sum stays in memory.
ziya::CpuModel load_merged(const ModelOptions& options) {
  const auto pair = ziya::MergePair::open(ziya::path_from_utf8(options.base),
                                          ziya::path_from_utf8(options.delta));
  const ziya::LlamaShape shape = ziya::read_llama_shape(pair.folder());
  const auto findings = ziya::MergeCheck(*pair.base.source, *pair.delta.source, pair.heads()).run();
  for (const std::string& line : pair.notes) note("note: " + printable(line));
  for (const auto& finding : findings) {
    note("warning: " + printable(finding.text) + " [" + finding.id + "]");
  }
  std::int64_t bytes = 0;
  const auto dtype = weight_type(options.dtype);
  for (const ziya::TensorSpec& tensor : pair.tensors) {
    bytes += ziya::bytes_of(dtype.value_or(tensor.dtype), tensor.shape.elements());
  }
  const auto free = available_memory();
  note("merging while loading: the weights take " + bytes_text(bytes) + " of memory" +
       (free ? ", " + bytes_text(*free) + " are free" : "") + "; no disk");
  return ziya::CpuModel::load(pair.merged(), shape, {.dtype = dtype});
}

}  // namespace

ziya::LoadOptions load_options(const ModelOptions& options, const std::filesystem::path& folder) {
  ziya::LoadOptions load{.dtype = weight_type(options.dtype)};
  for (const std::string& path : options.adapters) {
    const auto adapter = ziya::LoraAdapter::open(ziya::path_from_utf8(path));
    note("adapter: " + path + ", " + std::to_string(adapter.pairs().size()) +
         " low-rank updates beside the model");
    const std::string mismatch = adapter.base_mismatch({ziya::model_name(folder)});
    if (!mismatch.empty()) note("note: " + printable(mismatch) + "; shapes decide");
    load.adapters.push_back(adapter.folder());
  }
  return load;
}

ziya::CpuModel load_model(const ModelOptions& options, const std::filesystem::path& folder,
                          std::int64_t tokens) {
  if (!options.base.empty()) return load_merged(options);
  const auto dtype = weight_type(options.dtype);
  say_memory(folder, dtype, cache_type(options), tokens);
  return ziya::CpuModel::load(folder, load_options(options, folder));
}

bool uses_template(const ModelOptions& options, const ziya::Tokenizer& tokenizer) {
  const bool possible = ziya::prompt::has_template(tokenizer);
  if (options.prompt_template == "ziya" && !possible) {
    throw ziya::ArgumentError("ZIYA-315",
                              "--template ziya: the tokenizer has no <human> and <bot>; "
                              "use --template raw");
  }
  const bool chosen = options.prompt_template != "raw" && possible;
  const bool automatic = options.prompt_template == "auto";
  note(std::string("prompt template: ") + (chosen ? "ziya" : "raw") +
       (!automatic ? ""
        : possible ? " (the tokenizer has <human> and <bot>)"
                   : " (the tokenizer has no <human> and <bot>)"));
  return chosen;
}

void replace_bos(std::vector<std::int32_t>& prompt, const SamplingOptions& options,
                 const ziya::Tokenizer& tokenizer) {
  if (!options.bos_token_id) return;
  if (!prompt.empty() && prompt.front() == tokenizer.bos_id()) {
    prompt.front() = *options.bos_token_id;
  } else {
    prompt.insert(prompt.begin(), *options.bos_token_id);
  }
}

void check_loadable(const ziya::Checkpoint& checkpoint, const ziya::LlamaShape& shape) {
  (void)ziya::LlamaLoader(checkpoint, shape).load();
}

std::vector<ziya::MergeFinding> perplexity_findings(
    const std::shared_ptr<const ziya::TensorSource>& source, const std::filesystem::path& folder,
    double limit) {
  try {
    const ziya::LlamaShape shape = ziya::read_llama_shape(folder);
    const auto ids = ziya::forward_check_ids(ziya::Tokenizer::load(folder));
    ziya::Context<ziya::Cpu> context;
    const auto check = ziya::streamed_perplexity(context, source, shape, ids);
    char text[64];
    std::snprintf(text, sizeof text, "%.1f", check.perplexity);
    note("perplexity of a text of " + std::to_string(check.tokens) + " tokens: " + text);
    return perplexity_finding(check, limit);
  } catch (const ziya::Error& error) {
    return {{"ZIYA-657", std::string("the result cannot be run: ") + error.what()}};
  }
}

namespace {

/// In the order in which they refer to each other.
class PartsOnCpu : public SessionParts {
 public:
  PartsOnCpu(const ModelOptions& options, ziya::Tokenizer text, const std::filesystem::path& folder,
             std::int64_t tokens)
      : context_(context_options(options)),
        tokenizer_(std::move(text)),
        model_(load_model(options, folder, tokens)),
        generator_(context_, model_, tokenizer_, {.cache_dtype = cache_type(options)}) {}

  [[nodiscard]] std::int64_t context_limit() const override { return generator_.context_limit(); }
  ziya::GenerationResult generate(std::vector<std::int32_t> prompt,
                                  const ziya::GenerationConfig& config, ziya::TextCallback callback,
                                  const ziya::Cancellation& cancellation) override {
    return generator_.generate(std::move(prompt), config, std::move(callback), cancellation);
  }
  std::vector<ziya::GenerationResult> search(const std::vector<std::int32_t>& prompt,
                                             const ziya::GenerationConfig& config) override {
    if (config.num_beams > 1) {
      return ziya::beam_search(context_, model_, tokenizer_, prompt, config);
    }
    std::vector<ziya::GenerationResult> results;
    results.push_back(ziya::contrastive_search(context_, model_, tokenizer_, prompt, config));
    return results;
  }

 private:
  ziya::Context<ziya::Cpu> context_;
  ziya::Tokenizer tokenizer_;
  ziya::CpuModel model_;
  ziya::Generator<ziya::CpuModel> generator_;
};

std::unique_ptr<SessionParts> make_parts(const ModelOptions& options,
                                         const ziya::Tokenizer& tokenizer,
                                         const std::filesystem::path& folder, std::int64_t tokens) {
  const bool automatic = options.device == "auto";
  if (!automatic && options.device != "cpu" && options.device != "cuda") {
    throw ziya::BackendError("ZIYA-702", "--device " + options.device +
                                             ": there is no such device; use auto, cpu or cuda");
  }
  const bool merges = !options.base.empty();
  if (merges && options.device == "cuda") {
    throw ziya::BackendError(
        "ZIYA-702",
        "--device cuda: a model is merged while loading on the CPU only; write "
        "it with ziya merge-delta first");
  }
  if (options.device == "cuda" || (automatic && !merges && has_gpu())) {
    return parts_on_gpu(options, tokenizer, folder);
  }
  return std::make_unique<PartsOnCpu>(options, tokenizer, folder, tokens);
}

}  // namespace

Session::Session(const ModelOptions& options, const ziya::Tokenizer& tokenizer,
                 const std::filesystem::path& folder, std::int64_t tokens)
    : parts_(make_parts(options, tokenizer, folder, tokens)) {}
Session::~Session() = default;

std::int64_t Session::context_limit() const { return parts_->context_limit(); }

ziya::GenerationResult Session::generate(std::vector<std::int32_t> prompt,
                                         const ziya::GenerationConfig& config,
                                         ziya::TextCallback callback,
                                         const ziya::Cancellation& cancellation) {
  return parts_->generate(std::move(prompt), config, std::move(callback), cancellation);
}

std::vector<ziya::GenerationResult> Session::search(const std::vector<std::int32_t>& prompt,
                                                    const ziya::GenerationConfig& config) {
  return parts_->search(prompt, config);
}

}  // namespace cli
