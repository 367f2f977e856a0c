// SPDX-License-Identifier: Apache-2.0
// What every op on a GPU needs: a stream, matrix products, scratch memory.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>

#include "ziya/backend/cuda/graph.hpp"
#include "ziya/backend/cuda/memory.hpp"
#include "ziya/backend/cuda/products.hpp"
#include "ziya/backend/cuda/runtime.hpp"
#include "ziya/backend/cuda/supported.hpp"
#include "ziya/backend/cuda/uploads.hpp"
#include "ziya/core/decode_hook.hpp"
#include "ziya/core/device.hpp"
#include "ziya/core/error.hpp"
#include "ziya/core/tensor.hpp"
#include "ziya/core/workspace.hpp"

ZIYA_NAMESPACE_BEGIN

struct CudaOptions {
  int device = 0;             ///< which GPU
  int tried_algorithms = 12;  ///< of cuBLASLt, timed for each new shape of a product
};

/// Belongs to one thread, whose current GPU it sets. Ops return when their work is enqueued;
/// copying a result to the CPU waits for it.
template <>
class Context<Cuda> {
 public:
  /// @throws BackendError when there is no such GPU, or none that this build has kernels for
  explicit Context(const CudaOptions& options = {})
      : device_(checked(options.device)),
        stream_(make_stream()),
        products_(options.tried_algorithms, product_workspace),
        counters_(Shape{counter_count}) {
    check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device_));
    check(cudaDeviceGetAttribute(&capability_, cudaDevAttrComputeCapabilityMajor, device_));
    check(
        cudaDeviceGetAttribute(&shared_memory_, cudaDevAttrMaxSharedMemoryPerBlockOptin, device_));
    check(cudaMemset(counters_.data(), 0, counter_count * sizeof(std::uint32_t)));
  }

  [[nodiscard]] int device() const { return device_; }
  [[nodiscard]] cudaStream_t stream() const { return stream_.get(); }
  [[nodiscard]] int multiprocessors() const { return multiprocessors_; }
  /// Major number of the compute capability.
  [[nodiscard]] int capability() const { return capability_; }
  /// Bytes of shared memory that a block can have.
  [[nodiscard]] int shared_memory() const { return shared_memory_; }
  [[nodiscard]] Workspace<Cuda>& workspace() { return workspace_; }
  [[nodiscard]] cuda::Products& products() { return products_; }
  [[nodiscard]] cuda::Uploads& uploads() { return uploads_; }

  /// Zeros by which blocks of one launch find out who is last; the last one leaves zeros behind.
  [[nodiscard]] std::uint32_t* counters() { return counters_.data(); }
  static constexpr std::int64_t counter_count = 1 << 16;

  /// Blocks of a kernel that one multiprocessor holds at a time, at least 1; makes so much shared
  /// memory possible.
  [[nodiscard]] int resident_blocks(const void* kernel, int threads, int shared_bytes) {
    const auto key = std::make_tuple(kernel, threads, shared_bytes);
    const auto found = resident_.find(key);
    if (found != resident_.end()) return found->second;
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel));
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shared_memory_ - static_cast<int>(attributes.sharedSizeBytes)));
    int blocks = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads,
                                                        static_cast<std::size_t>(shared_bytes)));
    return resident_[key] = std::max(blocks, 1);
  }

  /// Clusters of `blocks` blocks of a kernel that the GPU holds at a time; compute capability 9.0.
  [[nodiscard]] int resident_clusters(const void* kernel, int threads, int shared_bytes,
                                      int blocks) {
    if (blocks == 1) return multiprocessors() * resident_blocks(kernel, threads, shared_bytes);
    int& known = clusters_[std::make_tuple(kernel, shared_bytes, blocks)];
    if (known > 0) return known;
    (void)resident_blocks(kernel, threads, shared_bytes);  // so much shared memory
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1, 1, static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = cluster.val.clusterDim.y = 1;
    cluster.val.clusterDim.z = static_cast<unsigned>(blocks);
    config.attrs = &cluster;
    config.numAttrs = 1;
    check(cudaOccupancyMaxActiveClusters(&known, kernel, &config));
    return known = std::max(known, 1);
  }

  /// What runs whole decode steps, or null.
  [[nodiscard]] const DecodeHook* decode_hook() const { return hook_; }
  /// @param hook outlives the context, or is taken away with null
  void set_decode_hook(const DecodeHook* hook) { hook_ = hook; }

  using Graph = cuda::Graph;
  /// Puts the arrays where ops look for them.
  void upload(const StepArrays& step) {
    const auto table = std::span(step.block_table, table_entries(step));
    const std::array<cuda::Uploads::Announced, 6> arrays{{
        {cuda::Upload::ids, std::as_bytes(step.ids)},
        {cuda::Upload::positions, std::as_bytes(step.positions)},
        {cuda::Upload::slots, std::as_bytes(step.slots)},
        {cuda::Upload::places, std::as_bytes(step.places)},
        {cuda::Upload::visible, std::as_bytes(step.visible)},
        {cuda::Upload::table, std::as_bytes(table)},
    }};
    uploads_.announce(stream(), arrays);
  }
  /// Equal for steps that enqueue the same kernels on the same memory, given the same model, cache
  /// and output.
  using StepKey = std::array<std::uint64_t, 6>;
  [[nodiscard]] StepKey key_of(const StepArrays& step) {
    Workspace<Cuda>::Scope scope(workspace_);
    const auto* scratch = workspace_.take<std::byte>(Shape{1}).data();
    const std::int64_t longest = *std::max_element(step.visible.begin(), step.visible.end());
    return {step.ids.size(),
            table_entries(step),
            static_cast<std::uint64_t>(cuda::key_splits(longest)),
            uploads_.generation(),
            workspace_.capacity(),
            reinterpret_cast<std::uintptr_t>(scratch)};
  }

  /// Waits for all work. @throws BackendError for what failed in it
  void synchronize() { check(cudaStreamSynchronize(stream())); }

 private:
  static constexpr std::size_t product_workspace = std::size_t{32} << 20;

  /// The table's rows up to the last slot of a step.
  static std::size_t table_entries(const StepArrays& step) {
    std::int64_t used = 0;
    for (const std::int32_t slot : step.slots) used = std::max<std::int64_t>(used, slot + 1);
    return static_cast<std::size_t>(used * step.table_stride);
  }

  struct DestroyStream {
    void operator()(cudaStream_t stream) const noexcept { (void)cudaStreamDestroy(stream); }
  };
  using Stream = std::unique_ptr<CUstream_st, DestroyStream>;

  static void check(cudaError_t status) { cuda::check(status, "context"); }
  static int checked(int device) {
    const int count = cuda::device_count();
    if (device < 0 || device >= count) {
      throw BackendError("ZIYA-151", "cuda: there is no NVIDIA GPU " + std::to_string(device) +
                                         ": this process sees " + std::to_string(count));
    }
    cuda::require_kernels(device);
    return device;
  }
  /// In order with the default stream, on which `copy` works.
  static Stream make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreate(&stream));
    return Stream(stream);
  }

  int device_ = 0, multiprocessors_ = 1, capability_ = 0, shared_memory_ = 0;
  Stream stream_;
  cuda::Products products_;
  cuda::Uploads uploads_;
  Tensor<std::uint32_t, Cuda> counters_;
  Workspace<Cuda> workspace_;
  std::map<std::tuple<const void*, int, int>, int> resident_;
  std::map<std::tuple<const void*, int, int>, int> clusters_;
  const DecodeHook* hook_ = nullptr;
};

ZIYA_NAMESPACE_END

#endif
