// SPDX-License-Identifier: Apache-2.0
// The shared work, compiled with the flags that CMakeLists.txt gives this file.
#include "block.hpp"

struct plain_tag {};
std::vector<float> plain(ziya::Isa isa) { return block<plain_tag>(isa); }
