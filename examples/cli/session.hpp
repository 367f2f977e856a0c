// SPDX-License-Identifier: Apache-2.0
// What generate and chat have in common, and eval, embed and perplexity: options made into a model
// that is ready to answer or to score. The model itself is compiled once per device.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "commands.hpp"
#include "ziya/convert/merge_check.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/perplexity.hpp"
#include "ziya/generate/scheduler.hpp"
#include "ziya/generate/scoring.hpp"
#include "ziya/generate/sequence.hpp"
#include "ziya/generate/session.hpp"
#include "ziya/generate/stopping.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama.hpp"
#include "ziya/model/llama_shape.hpp"
#include "ziya/text/prompt_template.hpp"
#include "ziya/text/tokenizer.hpp"

namespace cli {

/// What prompts are wrapped in; says the choice. @throws ArgumentError ZIYA-315, 318
ziya::PromptTemplate chosen_template(const ModelOptions& options, const ziya::Tokenizer& tokenizer);

/// The ids of one prompt. The templates of Ziya, and raw text, are read as the reference reads
/// them: tokens that the prompt spells become their ids.
std::vector<std::int32_t> prompt_ids(const ziya::PromptTemplate& wrapping, const std::string& text,
                                     const ziya::Tokenizer& tokenizer);

/// Sampling is the preset's, unless options say otherwise; ids that end an answer are the
/// tokenizer's and those of the model's files. Says the seed when it chooses one.
ziya::GenerationConfig generation_config(const SamplingOptions& options,
                                         const std::filesystem::path& folder,
                                         const ziya::Tokenizer& tokenizer);

/// Puts another id than the tokenizer's own in front of a prompt.
void replace_bos(std::vector<std::int32_t>& prompt, const SamplingOptions& options,
                 const ziya::Tokenizer& tokenizer);

/// What loading would refuse; only maps the tensors. @throws ConfigError, FormatError
void check_loadable(const ziya::Checkpoint& checkpoint, const ziya::LlamaShape& shape);

/// Runs the weights over a built-in text, layer by layer, and says its perplexity; a finding when
/// it is above `limit`, or when there is nothing to run.
std::vector<ziya::MergeFinding> perplexity_findings(
    const std::shared_ptr<const ziya::TensorSource>& source, const std::filesystem::path& folder,
    double limit);

/// The type that --dtype or --type names; none for "auto".
std::optional<ziya::DType> weight_type(const std::string& name);
/// @throws BackendError ZIYA-157, of what runs on the CPU
[[noreturn]] void refuse_float8();

/// How a model is loaded; says which adapters stand beside it.
ziya::LoadOptions load_options(const ModelOptions& options, const std::filesystem::path& folder);

/// What a session is made of.
struct SessionSetup {
  ModelOptions model;
  std::filesystem::path folder;
  std::int64_t tokens = 0;                 ///< the longest prompt with its answer, as far as known
  std::int64_t sequences = 1;              ///< that are answered at a time
  ziya::PromptTemplate wrapping = {};      ///< of a conversation
  ziya::SessionOptions conversation = {};  ///< the type of its cache is the model options'
};

/// Context, model and session on some device.
class SessionParts {
 public:
  virtual ~SessionParts() = default;
  [[nodiscard]] virtual std::int64_t context_limit() const = 0;
  virtual ziya::GenerationResult generate(std::vector<std::int32_t> prompt,
                                          const ziya::GenerationConfig& config,
                                          ziya::TextCallback callback = {},
                                          const ziya::Cancellation& cancellation = {}) = 0;
  /// Beam search or contrastive search, best answer first.
  virtual std::vector<ziya::GenerationResult> search(const std::vector<std::int32_t>& prompt,
                                                     const ziya::GenerationConfig& config) = 0;
  /// @throws ArgumentError for a request that cannot be answered
  virtual void check(const ziya::Request& request) const = 0;
  /// Answers all of them, `parallel` at a time.
  virtual void batch(std::vector<ziya::Request> requests, int parallel) = 0;
  /// What speculation gained in the last answer, of so many tokens; none where that is not known.
  [[nodiscard]] virtual std::optional<double> speed_up(std::int64_t tokens) const = 0;

  virtual ziya::Conversation& conversation() = 0;
  virtual ziya::Reply say(const std::string& text, const ziya::GenerationConfig& config,
                          ziya::TextCallback callback, const ziya::Cancellation& cancellation) = 0;
  virtual void save(const std::filesystem::path& path) const = 0;
  virtual void load(const std::filesystem::path& path) = 0;
};

/// What a model is scored with.
struct ScoringSetup {
  ModelOptions model;
  std::filesystem::path folder;
  std::filesystem::path against = {};  ///< another model of the same kind; empty: none
  std::int64_t tokens = 0;             ///< of the longest text, as far as known
  std::int64_t chunk = 512;            ///< of them run at once
};

/// Context and model on some device, for what scores, embeds and measures.
class ScoringParts {
 public:
  virtual ~ScoringParts() = default;
  [[nodiscard]] virtual std::int64_t context_limit() const = 0;
  virtual ziya::Likelihood log_likelihood(std::span<const std::int32_t> prompt,
                                          std::span<const std::int32_t> continuation) = 0;
  virtual std::vector<float> embed(std::span<const std::int32_t> ids) = 0;
  /// Against the setup's other model, where it has one.
  virtual ziya::PerplexityResult perplexity(std::span<const std::int32_t> ids,
                                            const ziya::PerplexityOptions& options) = 0;
};

/// @throws ConfigError ZIYA-711 when a draft model's tokens are not the model's
void check_same_vocabulary(const ziya::Tokenizer& tokenizer, const ziya::Tokenizer& draft,
                           const std::string& name);

/// The parts on an NVIDIA GPU. @throws BackendError where there is none or this program was built
/// without CUDA
std::unique_ptr<SessionParts> parts_on_gpu(const SessionSetup& setup,
                                           const ziya::Tokenizer& tokenizer);
/// The parts on the CPU.
std::unique_ptr<SessionParts> parts_on_cpu(const SessionSetup& setup,
                                           const ziya::Tokenizer& tokenizer);
/// The same of what scores.
std::unique_ptr<ScoringParts> scoring_on_gpu(const ScoringSetup& setup);
std::unique_ptr<ScoringParts> scoring_on_cpu(const ScoringSetup& setup);

/// Whether this program was built with CUDA and there is a GPU.
bool has_gpu();

/// Whether the options, as far as they say, or the machine want a GPU.
/// @throws BackendError ZIYA-702 for a device that does not exist or cannot do it, ZIYA-157;
/// UsageError for words that are none
bool wants_gpu(const ModelOptions& options);

/// The parts on the device that the options name. Loading says what a copy takes, and warns when
/// running takes more memory than is free.
std::unique_ptr<SessionParts> make_session(const SessionSetup& setup,
                                           const ziya::Tokenizer& tokenizer);

/// The same of what scores.
std::unique_ptr<ScoringParts> make_scoring(const ScoringSetup& setup);

struct PromptLine {
  std::string text;
  std::string where;  // FILE:LINE
};

/// One prompt a line, or one JSON object a line; empty lines are none.
std::vector<PromptLine> read_prompts(const std::string& file);

/// `ziya generate` of many answers. @returns the exit status
int run_batch(const GenerateOptions& options, const std::vector<PromptLine>& prompts);

/// "speculation: 42 of 60 guesses right, 3.1 tokens per pass, 2.4 times as fast as without"; empty
/// when nothing was guessed.
std::string speculation_text(const ziya::GenerationResult& result, std::optional<double> speed_up);

}  // namespace cli
