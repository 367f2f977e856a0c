// SPDX-License-Identifier: Apache-2.0
// The shared work, compiled with the flags that CMakeLists.txt gives this file.
#include "block.hpp"

struct native_tag {};
std::vector<float> native(ziya::Isa isa) { return block<native_tag>(isa); }
