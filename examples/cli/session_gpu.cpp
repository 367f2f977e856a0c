// SPDX-License-Identifier: Apache-2.0
// The model on an NVIDIA GPU, for whatever is done with it.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gpu_load.hpp"
#include "gpu_plan.hpp"
#include "model.hpp"
#include "scoring_parts.hpp"
#include "session.hpp"
#include "session_parts.hpp"
#include "terminal.hpp"
#include "ziya/ziya.hpp"

namespace cli {

#if ZIYA_WITH_CUDA
namespace {

/// The type of keys and values: that of the activations where nothing is said.
template <class Config>
ziya::DType cache_type(const ModelOptions& options) {
  return ziya::dtype_from_name(options.cache_dtype)
      .value_or(ziya::dtype_of<typename Config::Compute>);
}

/// @param plan whose first part may have fewer than 0 layers: all of them
template <class Config>
ziya::SplitModel<Config> load_split(const std::filesystem::path& folder,
                                    const ziya::LoadOptions& options, ziya::SplitPlan plan) {
  ziya::LlamaShape shape = ziya::read_llama_shape(folder);
  const auto source =
      std::make_shared<const ziya::CheckpointSource>(ziya::Checkpoint::open(folder));
  auto weights = ziya::load_llama_weights(source, shape, options);
  if (plan.parts.front().layers < 0) plan.parts.front().layers = shape.layers;
  return with_bar([&](auto progress) {
    return ziya::SplitModel<Config>(shape, plan, std::move(weights), progress,
                                    ziya::reads_of(*source));
  });
}

ziya::SplitOptions<ziya::CudaOptions> split_options(const ModelOptions& options,
                                                    const ziya::SplitPlan& plan) {
  ziya::SplitOptions<ziya::CudaOptions> result{.near = cpu_options(options)};
  for (const auto& part : plan.parts) result.far.push_back({.device = part.device});
  return result;
}

/// The plan of a second model: all of it on the GPU that a token meets first.
ziya::SplitPlan first_device(const ziya::SplitPlan& plan) {
  ziya::SplitPlan other;
  other.parts = {{plan.parts.front().device, -1}};
  return other;
}

/// The options of another model, whose weights stay as they are stored.
ModelOptions as_stored(ModelOptions options) {
  options.dtype = "auto";
  return options;
}

template <class Config>
class PartsOnGpu : public ModelParts<ziya::LlamaModel<Config>> {
 public:
  PartsOnGpu(const ziya::CudaOptions& device, const SessionSetup& setup,
             const ziya::Tokenizer& text)
      : ModelParts<ziya::LlamaModel<Config>>(
            device, text, setup, cache_type<Config>(setup.model),
            [&](const std::filesystem::path& folder, bool draft) {
              return load_whole<Config>(
                  folder, draft ? ziya::LoadOptions{} : load_options(setup.model, folder));
            }),
        graph_(this->context_) {}

 private:
  ziya::DecodeGraph<ziya::LlamaModel<Config>> graph_;
};

/// Some layers on the CPU, or layers on several GPUs.
template <class Config>
std::unique_ptr<SessionParts> parts_on_both(const SessionSetup& setup, const ziya::Tokenizer& text,
                                            const ziya::SplitPlan& plan) {
  return std::make_unique<ModelParts<ziya::SplitModel<Config>>>(
      split_options(setup.model, plan), text, setup, cache_type<Config>(setup.model),
      [&](const std::filesystem::path& folder, bool draft) {
        return draft ? load_split<Config>(folder, {}, first_device(plan))
                     : load_split<Config>(folder, load_options(setup.model, folder), plan);
      });
}

template <class Config>
std::unique_ptr<ScoringParts> scoring_whole(const ziya::CudaOptions& device,
                                            const ScoringSetup& setup) {
  return std::make_unique<ModelScoring<ziya::LlamaModel<Config>>>(
      device, cache_type<Config>(setup.model), setup,
      [&] { return load_whole<Config>(setup.folder, load_options(setup.model, setup.folder)); },
      [&] {
        return load_whole<Config>(setup.against,
                                  load_options(as_stored(setup.model), setup.against));
      });
}

template <class Config>
std::unique_ptr<ScoringParts> scoring_on_both(const ScoringSetup& setup,
                                              const ziya::SplitPlan& plan) {
  return std::make_unique<ModelScoring<ziya::SplitModel<Config>>>(
      split_options(setup.model, plan), cache_type<Config>(setup.model), setup,
      [&] {
        return load_split<Config>(setup.folder, load_options(setup.model, setup.folder), plan);
      },
      [&] {
        return load_split<Config>(
            setup.against, load_options(as_stored(setup.model), setup.against), first_device(plan));
      });
}

/// What a model needs: its own weights, and keys and values of `tokens`.
ziya::SplitNeed need_of(const ModelOptions& options, const std::filesystem::path& folder,
                        ziya::DType compute, std::int64_t tokens, std::int64_t chunk) {
  return gpu_need(ziya::Checkpoint::open(folder), ziya::read_llama_shape(folder),
                  weight_type(options.dtype), compute,
                  ziya::dtype_from_name(options.cache_dtype).value_or(compute), tokens, chunk);
}

using NeedOf = std::function<ziya::SplitNeed(const ModelOptions&, std::int64_t tokens)>;

/// What would make `layers` layers fit: fewer of them, a smaller type, a shorter cache.
void say_what_fits(const ModelOptions& options, const NeedOf& need_of, std::int64_t tokens,
                   std::int64_t layers, std::int64_t fitting) {
  std::string text = fitting > 0 ? "--gpu-layers " + std::to_string(fitting) : "";
  const auto add = [&](const std::string& what, const ModelOptions& changed, std::int64_t length) {
    const auto need = need_of(changed, length);
    const auto plan = gpu_plan(need, std::nullopt, memory_limits(options.max_memory));
    if (plan.far_layers() < layers) return false;
    text += (text.empty() ? "" : ", ") + what;
    return true;
  };
  for (const char* type : {"q8_0", "q4_0"}) {
    ModelOptions smaller = options;
    smaller.dtype = type;
    if (add(std::string("--dtype ") + type, smaller, tokens)) break;
  }
  for (std::int64_t length = tokens / 2; length >= 256; length /= 2) {
    if (add("keys and values of " + std::to_string(length) + " tokens", options, length)) break;
  }
  note("what would fit: " + (text.empty() ? "nothing of it" : text));
}

struct Placement {
  ziya::SplitPlan plan;
  bool whole = false;  ///< on the first GPU, the embedding too
};

/// Which layers go where, and says it.
Placement placement(const ModelOptions& options, const NeedOf& need_of, std::int64_t tokens) {
  const auto need = need_of(options, tokens);
  const auto wanted =
      wanted_layers(options.gpu_layers, static_cast<std::int64_t>(need.layers.size()));
  const auto limits = memory_limits(options.max_memory);
  if (wanted) {
    const std::int64_t fitting = gpu_plan(need, std::nullopt, limits).far_layers();
    if (fitting < *wanted) say_what_fits(options, need_of, tokens, *wanted, fitting);
  }
  Placement result{gpu_plan(need, wanted, limits)};
  ziya::SplitPlan& plan = result.plan;
  if (plan.near_layers == 0 && plan.parts.size() == 1 && plan.parts.front().device == 0) {
    const auto room = gpu_room(0, limits.empty() ? std::nullopt : std::optional(limits.front()));
    const std::int64_t all = plan.weights[0] + need.embedding;
    result.whole = all + plan.caches[0] + need.scratch <= room;
    if (result.whole) plan.weights[0] = all;
  }
  say_plan(plan, need);
  return result;
}

void say_device(ziya::DType compute) {
  note("device: GPU 0, activations in " + std::string(name(compute)));
}

}  // namespace

bool has_gpu() { return ziya::cuda::can_use(0); }

std::unique_ptr<SessionParts> parts_on_gpu(const SessionSetup& setup,
                                           const ziya::Tokenizer& tokenizer) {
  const ziya::CudaOptions device;
  const ziya::Context<ziya::Cuda> check(device);  // before anything is read
  const ziya::DType dtype = compute_type(setup.model, setup.folder);
  const ziya::LlamaShape shape = ziya::read_llama_shape(setup.folder);
  constexpr std::int64_t least = 4096;  // a generator makes room for so many
  const std::int64_t tokens =
      setup.sequences * std::min(ziya::context_limit(shape), std::max(setup.tokens, least));
  const Placement placed = placement(
      setup.model,
      [&](const ModelOptions& options, std::int64_t count) {
        const ziya::DType compute = compute_type(options, setup.folder);
        ziya::SplitNeed need = need_of(options, setup.folder, compute, count, 512);
        if (!options.draft.empty()) {
          const auto folder = ziya::resolve_model_path(ziya::path_from_utf8(options.draft));
          add_whole(need, need_of(as_stored(options), folder, compute, count, 512));
        }
        return need;
      },
      tokens);
  if (placed.plan.parts.empty()) return parts_on_cpu(setup, tokenizer);
  if (placed.whole) say_device(dtype);
  return with_config(dtype, [&](auto config) -> std::unique_ptr<SessionParts> {
    using Config = decltype(config);
    if (placed.whole) return std::make_unique<PartsOnGpu<Config>>(device, setup, tokenizer);
    return parts_on_both<Config>(setup, tokenizer, placed.plan);
  });
}

std::unique_ptr<ScoringParts> scoring_on_gpu(const ScoringSetup& setup) {
  const ziya::CudaOptions device;
  const ziya::Context<ziya::Cuda> check(device);
  ziya::DType dtype = compute_type(setup.model, setup.folder);
  const std::int64_t tokens =
      std::min(ziya::context_limit(ziya::read_llama_shape(setup.folder)), setup.tokens);
  if (!setup.against.empty() && compute_type(as_stored(setup.model), setup.against) != dtype) {
    dtype = ziya::DType::f32;  // both are what they are on the CPU
  }
  const Placement placed = placement(
      setup.model,
      [&](const ModelOptions& options, std::int64_t count) {
        ziya::SplitNeed need = need_of(options, setup.folder, dtype, count, setup.chunk);
        if (!setup.against.empty()) {
          add_whole(need,
                    need_of(as_stored(setup.model), setup.against, dtype, count, setup.chunk));
        }
        return need;
      },
      tokens);
  if (placed.plan.parts.empty()) return scoring_on_cpu(setup);
  if (placed.whole) say_device(dtype);
  return with_config(dtype, [&](auto config) {
    using Config = decltype(config);
    return placed.whole ? scoring_whole<Config>(device, setup)
                        : scoring_on_both<Config>(setup, placed.plan);
  });
}
#else
bool has_gpu() { return false; }

std::unique_ptr<SessionParts> parts_on_gpu(const SessionSetup&, const ziya::Tokenizer&) {
  refuse_gpu();
}
std::unique_ptr<ScoringParts> scoring_on_gpu(const ScoringSetup&) { refuse_gpu(); }
#endif

}  // namespace cli
