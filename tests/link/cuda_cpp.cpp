// SPDX-License-Identifier: Apache-2.0
// A plain translation unit: its kernels come from ziya::cuda or from a .cu of the same program.
#include "cuda_block.hpp"

struct cpp_tag {};
bool from_cpp() { return softmax_is_right<cpp_tag>(); }
