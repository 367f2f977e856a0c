// SPDX-License-Identifier: Apache-2.0
// The model behind generate and chat on an NVIDIA GPU.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "session.hpp"
#include "terminal.hpp"
#include "ziya/ziya.hpp"

namespace cli {

#if ZIYA_WITH_CUDA
namespace {

/// In the order in which they refer to each other.
template <class Config>
class PartsOnGpu : public SessionParts {
 public:
  PartsOnGpu(const ziya::CudaOptions& device, const ModelOptions& options, ziya::Tokenizer text,
             const std::filesystem::path& folder)
      : context_(device),
        tokenizer_(std::move(text)),
        model_(Model::load(folder, load_options(options, folder))),
        graph_(context_),
        generator_(context_, model_, tokenizer_,
                   {.cache_dtype = ziya::dtype_from_name(options.cache_dtype)
                                       .value_or(ziya::dtype_of<typename Config::Compute>)}) {}

  [[nodiscard]] std::int64_t context_limit() const override { return generator_.context_limit(); }
  ziya::GenerationResult generate(std::vector<std::int32_t> prompt,
                                  const ziya::GenerationConfig& config, ziya::TextCallback callback,
                                  const ziya::Cancellation& cancellation) override {
    return generator_.generate(std::move(prompt), config, std::move(callback), cancellation);
  }

  std::vector<ziya::GenerationResult> search(const std::vector<std::int32_t>&,
                                             const ziya::GenerationConfig&) override {
    throw ziya::BackendError("ZIYA-702",
                             "beam search and contrastive search run on the CPU only; use --device "
                             "cpu");
  }

 private:
  using Model = ziya::LlamaModel<Config>;
  ziya::Context<ziya::Cuda> context_;
  ziya::Tokenizer tokenizer_;
  Model model_;
  ziya::DecodeGraph<Model> graph_;
  ziya::Generator<Model> generator_;
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

}  // namespace

bool has_gpu() { return ziya::cuda::device_count() > 0; }

std::unique_ptr<SessionParts> parts_on_gpu(const ModelOptions& options,
                                           const ziya::Tokenizer& tokenizer,
                                           const std::filesystem::path& folder) {
  const ziya::CudaOptions device;
  const ziya::Context<ziya::Cuda> check(device);  // before anything is read
  const ziya::DType dtype = compute_type(options, folder);
  note("device: GPU " + std::to_string(device.device) + ", activations in " +
       std::string(name(dtype)));
  if (dtype == ziya::DType::f16) {
    return std::make_unique<PartsOnGpu<ziya::CudaHalfConfig>>(device, options, tokenizer, folder);
  }
  if (dtype == ziya::DType::bf16) {
    return std::make_unique<PartsOnGpu<ziya::CudaBFloat16Config>>(device, options, tokenizer,
                                                                  folder);
  }
  return std::make_unique<PartsOnGpu<ziya::CudaConfig>>(device, options, tokenizer, folder);
}
#else
bool has_gpu() { return false; }

std::unique_ptr<SessionParts> parts_on_gpu(const ModelOptions&, const ziya::Tokenizer&,
                                           const std::filesystem::path&) {
  throw ziya::BackendError("ZIYA-702",
                           "--device cuda: this program was built without CUDA; use --device cpu, "
                           "or build it with -DZIYA_BUILD_CUDA=ON");
}
#endif

}  // namespace cli
