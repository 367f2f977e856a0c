// SPDX-License-Identifier: Apache-2.0
// Ops for activations in f16.
#include "ziya/backend/cuda/instances.cuh"

ZIYA_NAMESPACE_BEGIN
namespace backend {

ZIYA_INSTANCES(Half)

template void matmul(Context<Cuda>&, View<float, Cuda>, View<const Half, Cuda>,
                     const Weight<Cuda>&);

}  // namespace backend
ZIYA_NAMESPACE_END
