// SPDX-License-Identifier: Apache-2.0
// Ops for activations in bf16.
#include "ziya/backend/cuda/instances.cuh"

ZIYA_NAMESPACE_BEGIN
namespace backend {

ZIYA_INSTANCES(BFloat16)

template void matmul(Context<Cuda>&, View<float, Cuda>, View<const BFloat16, Cuda>,
                     const Weight<Cuda>&);

}  // namespace backend
ZIYA_NAMESPACE_END
