// SPDX-License-Identifier: Apache-2.0
// Includes the umbrella once more beside the translation units that include each header alone.
#include <ziya/ziya.hpp>

int main() { return ziya::Shape{2, 3}.elements() == 6 ? 0 : 1; }
