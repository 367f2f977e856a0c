// SPDX-License-Identifier: Apache-2.0
// The model behind generate and chat.
#include "session.hpp"

#include <algorithm>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "base.hpp"
#include "gpu_plan.hpp"
#include "memory.hpp"
#include "model.hpp"
#include "scoring_parts.hpp"
#include "session_parts.hpp"
#include "terminal.hpp"
#include "ziya/convert/forward_check.hpp"
#include "ziya/convert/lora_merge.hpp"
#include "ziya/convert/merge_check.hpp"
#include "ziya/convert/merge_pair.hpp"
#include "ziya/convert/model_files.hpp"
#include "ziya/ziya.hpp"

namespace cli {

ziya::CpuOptions cpu_options(const ModelOptions& options) {
  ziya::CpuOptions result{.threads = options.threads};
  if (options.isa == "auto") return result;
  result.isa = ziya::isa_from_name(options.isa);
  if (!result.isa) {
    throw UsageError("ZIYA-701", "--isa " + options.isa + ": expected one of " + isa_words());
  }
  return result;
}

std::optional<ziya::DType> weight_type(const std::string& name) {
  if (name == "fp8") return ziya::DType::f8_e4m3;
  return name == "int8" ? ziya::DType::i8 : ziya::dtype_from_name(name);
}

void refuse_float8() {
  throw ziya::BackendError("ZIYA-157",
                           "fp8 runs on an NVIDIA GPU alone: use --device cuda, or int8 here");
}

namespace {

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
  if (is_quantised(cache_dtype)) {
    note("keys and values: " + bytes_text(need.cache) + " of memory for " +
         std::to_string(need.tokens) + " tokens in " + std::string(name(cache_dtype)));
  }
  const auto free = available_memory();
  if (free && need.total() > *free) {
    note("warning: running this takes about " + bytes_text(need.total()) + " of memory, but " +
         bytes_text(*free) + " are free: it will be slow, or the system will end it");
  }
}

/// Base and delta are added while they are read; the sum stays in memory.
ziya::CpuModel load_merged(const ModelOptions& options) {
  const auto pair = ziya::MergePair::open(base_path(options.base, options.model_size),
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
  return ziya::CpuModel::load(pair.merged(), shape, load_options(options, pair.folder()));
}

}  // namespace

ziya::LoadOptions load_options(const ModelOptions& options, const std::filesystem::path& folder) {
  ziya::LoadOptions load{.dtype = weight_type(options.dtype)};
  for (const std::string& path : options.adapters) {
    const auto adapter = ziya::LoraAdapter::open(ziya::path_from_utf8(path));
    note("adapter: " + path + ", " + std::to_string(adapter.pairs().size()) +
         " low-rank updates beside the model");
    check_base(adapter, ziya::base_names(folder), options.any_base);
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

namespace {

ziya::PromptTemplate named_template(const std::string& name) {
  if (!name.ends_with(".json")) return ziya::prompt::template_by_name(name);
  const auto path = ziya::expand_home(ziya::path_from_utf8(name));
  return ziya::PromptTemplate::parse(ziya::read_text_file(path, 1 << 20), name);
}

}  // namespace

ziya::PromptTemplate chosen_template(const ModelOptions& options,
                                     const ziya::Tokenizer& tokenizer) {
  if (options.prompt_template != "auto") {
    ziya::PromptTemplate chosen = named_template(options.prompt_template);
    if (chosen.name == "ziya" && !ziya::prompt::has_template(tokenizer)) {
      throw ziya::ArgumentError("ZIYA-315",
                                "--template ziya: the tokenizer has no <human> and <bot>; "
                                "use --template raw");
    }
    note("prompt template: " + printable(chosen.name));
    return chosen;
  }
  const bool possible = ziya::prompt::has_template(tokenizer);
  note(possible ? "prompt template: ziya (the tokenizer has <human> and <bot>)"
                : "prompt template: raw (the tokenizer has no <human> and <bot>)");
  return ziya::prompt::template_by_name(possible ? "ziya" : "raw");
}

std::vector<std::int32_t> prompt_ids(const ziya::PromptTemplate& wrapping, const std::string& text,
                                     const ziya::Tokenizer& tokenizer) {
  if (wrapping.name == "ziya") return tokenizer.encode(ziya::prompt::ziya(text));
  if (wrapping.name == "raw") return tokenizer.encode(text);
  std::vector<std::int32_t> ids = wrapping.start_ids(tokenizer);
  const std::vector<std::int32_t> query = wrapping.query_ids(tokenizer, text, true);
  ids.insert(ids.end(), query.begin(), query.end());
  return ids;
}

void check_same_vocabulary(const ziya::Tokenizer& tokenizer, const ziya::Tokenizer& draft,
                           const std::string& name) {
  bool same = tokenizer.vocabulary_size() == draft.vocabulary_size();
  for (std::int32_t id = 0; same && id < tokenizer.vocabulary_size(); ++id) {
    same = tokenizer.piece(id) == draft.piece(id);
  }
  if (same) return;
  throw ziya::ConfigError("ZIYA-711", "--draft " + name + ": its tokens are not the model's (" +
                                          std::to_string(draft.vocabulary_size()) + " of them, " +
                                          std::to_string(tokenizer.vocabulary_size()) +
                                          " of the model)");
}

std::string speculation_text(const ziya::GenerationResult& result, std::optional<double> speed_up) {
  if (result.drafted_tokens == 0) return "";
  char text[160];
  std::snprintf(text, sizeof text, "speculation: %lld of %lld guesses right, %.2f tokens per pass",
                static_cast<long long>(result.accepted_tokens),
                static_cast<long long>(result.drafted_tokens),
                static_cast<double>(result.generated_ids.size()) /
                    static_cast<double>(std::max<std::int64_t>(result.steps, 1)));
  std::string line = text;
  if (speed_up) {
    std::snprintf(text, sizeof text, ", %.2f times as fast as without", *speed_up);
    line += text;
  }
  return line;
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
    // Each thread takes a stack and scratch memory: 8 of them did not fit into half a gigabyte.
    ziya::Context<ziya::Cpu> context({.threads = std::min(4, ziya::default_threads())});
    const auto check = ziya::streamed_perplexity(context, source, shape, ids);
    char text[64];
    std::snprintf(text, sizeof text, "%.1f", check.perplexity);
    note("perplexity of a text of " + std::to_string(check.tokens) + " tokens: " + text);
    return perplexity_finding(check, limit);
  } catch (const ziya::Error& error) {
    std::string why = error.what();
    why.resize(why.rfind(" [" + error.id()));  // a message has one id
    return {{"ZIYA-657", "the result cannot be run: " + why}};
  } catch (const std::bad_alloc&) {
    return {{"ZIYA-657", "the result cannot be run: there is not enough memory for a layer of it"}};
  }
}

namespace {

class PartsOnCpu : public ModelParts<ziya::CpuModel> {
 public:
  PartsOnCpu(const SessionSetup& setup, const ziya::Tokenizer& text)
      : ModelParts(cpu_options(setup.model), text, setup, cache_type(setup.model),
                   [&](const std::filesystem::path& folder, bool draft) {
                     return draft ? ziya::CpuModel::load(folder)
                                  : load_model(setup.model, folder, setup.tokens);
                   }) {}
};

}  // namespace

std::unique_ptr<SessionParts> parts_on_cpu(const SessionSetup& setup,
                                           const ziya::Tokenizer& tokenizer) {
  return std::make_unique<PartsOnCpu>(setup, tokenizer);
}

std::unique_ptr<ScoringParts> scoring_on_cpu(const ScoringSetup& setup) {
  using Parts = ModelScoring<ziya::CpuModel>;
  return std::make_unique<Parts>(
      cpu_options(setup.model), cache_type(setup.model), setup,
      [&] { return load_model(setup.model, setup.folder, setup.tokens); },
      [&] {
        ModelOptions as_stored = setup.model;
        as_stored.dtype = "auto";
        return load_model(as_stored, setup.against, setup.tokens);
      });
}

bool wants_gpu(const ModelOptions& options) {
  const std::string& device = options.device;
  const bool automatic = device == "auto";
  if (!automatic && device != "cpu" && device != "cuda") {
    throw ziya::BackendError(
        "ZIYA-702", "--device " + device + ": there is no such device; use auto, cpu or cuda");
  }
  const bool merges = !options.base.empty();
  const auto layers = wanted_layers(options.gpu_layers, 1);
  (void)memory_limits(options.max_memory);
  if (device == "cpu" && layers.value_or(0) > 0) {
    throw UsageError("ZIYA-701", "--gpu-layers " + options.gpu_layers +
                                     ": --device cpu uses no GPU; leave one of them out");
  }
  if (merges && device == "cuda") {
    throw ziya::BackendError(
        "ZIYA-702",
        "--device cuda: a model is merged while loading on the CPU only; write "
        "it with ziya merge-delta first");
  }
  const bool gpu =
      device == "cuda" || (automatic && !merges && (layers.value_or(0) > 0 || has_gpu()));
  if (options.dtype == "fp8" && !gpu) refuse_float8();
  return gpu;
}

std::unique_ptr<SessionParts> make_session(const SessionSetup& setup,
                                           const ziya::Tokenizer& tokenizer) {
  return wants_gpu(setup.model) ? parts_on_gpu(setup, tokenizer) : parts_on_cpu(setup, tokenizer);
}

std::unique_ptr<ScoringParts> make_scoring(const ScoringSetup& setup) {
  return wants_gpu(setup.model) ? scoring_on_gpu(setup) : scoring_on_cpu(setup);
}

}  // namespace cli
