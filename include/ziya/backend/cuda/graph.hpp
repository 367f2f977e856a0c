// SPDX-License-Identifier: Apache-2.0
// Work of a stream recorded once and run many times.
#pragma once

#include "ziya/config.hpp"
#if ZIYA_WITH_CUDA

#include <memory>
#include <utility>

#include "ziya/backend/cuda/runtime.hpp"

ZIYA_NAMESPACE_BEGIN
namespace cuda {

class Graph {
 public:
  /// Records what `enqueue` puts on the stream, without running it. When it throws, there is no
  /// graph.
  template <class F>
  void capture(cudaStream_t stream, F&& enqueue) {
    executable_.reset();
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    cudaGraph_t recorded = nullptr;
    try {
      std::forward<F>(enqueue)();
    } catch (...) {
      (void)cudaStreamEndCapture(stream, &recorded);
      if (recorded != nullptr) (void)cudaGraphDestroy(recorded);
      throw;
    }
    check(cudaStreamEndCapture(stream, &recorded), "cudaStreamEndCapture");
    cudaGraphExec_t executable = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&executable, recorded, 0);
    (void)cudaGraphDestroy(recorded);
    check(status, "cudaGraphInstantiate");
    executable_.reset(executable);
  }
  [[nodiscard]] bool empty() const { return executable_ == nullptr; }
  void launch(cudaStream_t stream) const {
    check(cudaGraphLaunch(executable_.get(), stream), "cudaGraphLaunch");
  }

 private:
  struct Destroy {
    void operator()(cudaGraphExec_t executable) const noexcept {
      (void)cudaGraphExecDestroy(executable);
    }
  };
  std::unique_ptr<CUgraphExec_st, Destroy> executable_;
};

}  // namespace cuda
ZIYA_NAMESPACE_END

#endif
