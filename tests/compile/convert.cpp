// SPDX-License-Identifier: Apache-2.0
// Includes the umbrella of conversion once more beside the translation unit that includes it alone.
#include <ziya/convert.hpp>

int convert() { return ziya::is_copied_from_delta("lm_head.weight") ? 0 : 1; }
