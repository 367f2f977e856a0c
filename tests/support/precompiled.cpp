// SPDX-License-Identifier: Apache-2.0
// The translation unit for which the tests' common headers are precompiled.
#include "ziya/ziya.hpp"
