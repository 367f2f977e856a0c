// SPDX-License-Identifier: Apache-2.0
// The model behind generate and chat on an NVIDIA GPU.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu_plan.hpp"
#include "session.hpp"
#include "session_parts.hpp"
#include "terminal.hpp"
#include "ziya/ziya.hpp"

namespace cli {

#if ZIYA_WITH_CUDA
namespace {

/// load(progress), whose bar disappears when it is done.
template <class Load>
auto with_bar(Load&& load) {
  ProgressBar bar("loading");
  const std::function<void(std::int64_t, std::int64_t)> progress =
      [&](std::int64_t done, std::int64_t total) { bar.update(done, total, ""); };
  return load(progress);
}

/// The type of keys and values: that of the activations where nothing is said.
template <class Config>
ziya::DType cache_type(const ModelOptions& options) {
  return ziya::dtype_from_name(options.cache_dtype)
      .value_or(ziya::dtype_of<typename Config::Compute>);
}

template <class Config>
class PartsOnGpu : public ModelParts<ziya::LlamaModel<Config>> {
 public:
  PartsOnGpu(const ziya::CudaOptions& device, const SessionSetup& setup,
             const ziya::Tokenizer& text)
      : Base(device, text, setup, cache_type<Config>(setup.model),
             [&](const std::filesystem::path& folder, bool draft) {
               return draft ? Model::load(folder) : with_bar([&](auto progress) {
                 ziya::LoadOptions options = load_options(setup.model, folder);
                 options.progress = progress;
                 return Model::load(folder, options);
               });
             }),
        graph_(this->context_) {}

 private:
  using Model = ziya::LlamaModel<Config>;
  using Base = ModelParts<Model>;
  ziya::DecodeGraph<Model> graph_;
};

/// Some layers on the CPU, or layers on several GPUs.
template <class Config>
class PartsOnBoth : public ModelParts<ziya::SplitModel<Config>> {
 public:
  PartsOnBoth(const SessionSetup& setup, const ziya::Tokenizer& text, const ziya::SplitPlan& plan)
      : Base(options_of(setup.model, plan), text, setup, cache_type<Config>(setup.model),
             [&](const std::filesystem::path& folder, bool draft) {
               return draft ? load(folder, {}, first_device(plan))
                            : load(folder, load_options(setup.model, folder), plan);
             }) {}

 private:
  using Model = ziya::SplitModel<Config>;
  using Base = ModelParts<Model>;

  static ziya::SplitOptions<ziya::CudaOptions> options_of(const ModelOptions& options,
                                                          const ziya::SplitPlan& plan) {
    ziya::SplitOptions<ziya::CudaOptions> result{.near = cpu_options(options)};
    for (const auto& part : plan.parts) result.far.push_back({.device = part.device});
    return result;
  }
  /// The plan of a draft model: all of it on the GPU that a token meets first.
  static ziya::SplitPlan first_device(const ziya::SplitPlan& plan) {
    ziya::SplitPlan draft;
    draft.parts = {{plan.parts.front().device, -1}};
    return draft;
  }
  static Model load(const std::filesystem::path& folder, const ziya::LoadOptions& options,
                    ziya::SplitPlan plan) {
    ziya::LlamaShape shape = ziya::read_llama_shape(folder);
    auto weights = ziya::load_llama_weights(
        std::make_shared<const ziya::CheckpointSource>(ziya::Checkpoint::open(folder)), shape,
        options);
    if (plan.parts.front().layers < 0) plan.parts.front().layers = shape.layers;
    return with_bar(
        [&](auto progress) { return Model(shape, plan, std::move(weights), progress); });
  }
};

/// The type of activations: that of the matrices, f16 beside quantised ones.
ziya::DType compute_type(const ModelOptions& options, const std::filesystem::path& folder) {
  auto dtype = ziya::dtype_from_name(options.dtype);
  if (!dtype) {
    const auto checkpoint = ziya::Checkpoint::open(folder);
    const auto* table = checkpoint.find(ziya::llama_names::embedding);
    dtype = table == nullptr ? ziya::DType::f32 : table->dtype;
  }
  const bool half = *dtype == ziya::DType::f16 || is_quantised(*dtype);
  return half ? ziya::DType::f16 : *dtype == ziya::DType::bf16 ? *dtype : ziya::DType::f32;
}

/// Which layers go where, and says it.
ziya::SplitPlan placement(const SessionSetup& setup, ziya::DType compute) {
  const ziya::LlamaShape shape = ziya::read_llama_shape(setup.folder);
  const auto wanted = wanted_layers(setup.model.gpu_layers, shape.layers);
  constexpr std::int64_t least = 4096;  // a generator makes room for so many
  const std::int64_t tokens =
      setup.sequences * std::min(ziya::context_limit(shape), std::max(setup.tokens, least));
  const auto need = gpu_need(
      ziya::Checkpoint::open(setup.folder), shape, ziya::dtype_from_name(setup.model.dtype),
      compute, ziya::dtype_from_name(setup.model.cache_dtype).value_or(compute), tokens);
  ziya::SplitPlan plan = gpu_plan(need, wanted, memory_limits(setup.model.max_memory));
  say_plan(plan, need);
  return plan;
}

}  // namespace

bool has_gpu() { return ziya::cuda::device_count() > 0; }

std::unique_ptr<SessionParts> parts_on_gpu(const SessionSetup& setup,
                                           const ziya::Tokenizer& tokenizer) {
  const ziya::CudaOptions device;
  const ziya::Context<ziya::Cuda> check(device);  // before anything is read
  const ziya::DType dtype = compute_type(setup.model, setup.folder);
  const ziya::SplitPlan plan = placement(setup, dtype);
  if (plan.parts.empty()) return parts_on_cpu(setup, tokenizer);
  const bool whole =
      plan.near_layers == 0 && plan.parts.size() == 1 && plan.parts.front().device == device.device;
  if (!whole) {
    if (dtype == ziya::DType::f16) {
      return std::make_unique<PartsOnBoth<ziya::CudaHalfConfig>>(setup, tokenizer, plan);
    }
    return std::make_unique<PartsOnBoth<ziya::CudaConfig>>(setup, tokenizer, plan);
  }
  note("device: GPU " + std::to_string(device.device) + ", activations in " +
       std::string(name(dtype)));
  if (dtype == ziya::DType::f16) {
    return std::make_unique<PartsOnGpu<ziya::CudaHalfConfig>>(device, setup, tokenizer);
  }
  if (dtype == ziya::DType::bf16) {
    return std::make_unique<PartsOnGpu<ziya::CudaBFloat16Config>>(device, setup, tokenizer);
  }
  return std::make_unique<PartsOnGpu<ziya::CudaConfig>>(device, setup, tokenizer);
}
#else
bool has_gpu() { return false; }

std::unique_ptr<SessionParts> parts_on_gpu(const SessionSetup&, const ziya::Tokenizer&) {
  throw ziya::BackendError("ZIYA-702",
                           "--device cuda: this program was built without CUDA; use --device cpu, "
                           "or build it with -DZIYA_BUILD_CUDA=ON");
}
#endif

}  // namespace cli
