// SPDX-License-Identifier: Apache-2.0
// What generate and chat have in common: options made into a model that is ready to answer. The
// model itself is compiled once, in session.cpp.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "commands.hpp"
#include "ziya/convert/merge_check.hpp"
#include "ziya/generate/generation_config.hpp"
#include "ziya/generate/sequence.hpp"
#include "ziya/generate/stopping.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/tensor_source.hpp"
#include "ziya/model/llama.hpp"
#include "ziya/model/llama_shape.hpp"
#include "ziya/text/tokenizer.hpp"

namespace cli {

/// Whether prompts are wrapped in `<human>:…\n<bot>:`; says the choice.
bool uses_template(const ModelOptions& options, const ziya::Tokenizer& tokenizer);

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

/// How a model is loaded; says which adapters stand beside it.
ziya::LoadOptions load_options(const ModelOptions& options, const std::filesystem::path& folder);

/// Context, model and generator on some device.
class SessionParts {
 public:
  virtual ~SessionParts() = default;
  [[nodiscard]] virtual std::int64_t context_limit() const = 0;
  virtual ziya::GenerationResult generate(std::vector<std::int32_t> prompt,
                                          const ziya::GenerationConfig& config,
                                          ziya::TextCallback callback,
                                          const ziya::Cancellation& cancellation) = 0;
  virtual std::vector<ziya::GenerationResult> search(const std::vector<std::int32_t>& prompt,
                                                     const ziya::GenerationConfig& config) = 0;
};

/// The parts on an NVIDIA GPU. @throws BackendError where there is none or this program was built
/// without CUDA
std::unique_ptr<SessionParts> parts_on_gpu(const ModelOptions& options,
                                           const ziya::Tokenizer& tokenizer,
                                           const std::filesystem::path& folder);
/// Whether this program was built with CUDA and there is a GPU.
bool has_gpu();

/// Context, model and generator. Loading says what a copy takes, and warns when running takes more
/// memory than is free.
class Session {
 public:
  /// @param tokens the longest prompt with its answer, as far as is known
  Session(const ModelOptions& options, const ziya::Tokenizer& tokenizer,
          const std::filesystem::path& folder, std::int64_t tokens);
  ~Session();

  [[nodiscard]] std::int64_t context_limit() const;
  ziya::GenerationResult generate(std::vector<std::int32_t> prompt,
                                  const ziya::GenerationConfig& config,
                                  ziya::TextCallback callback = {},
                                  const ziya::Cancellation& cancellation = {});
  /// Beam search or contrastive search, best answer first.
  std::vector<ziya::GenerationResult> search(const std::vector<std::int32_t>& prompt,
                                             const ziya::GenerationConfig& config);

 private:
  std::unique_ptr<SessionParts> parts_;
};

}  // namespace cli
