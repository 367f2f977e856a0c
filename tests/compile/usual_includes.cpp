// SPDX-License-Identifier: Apache-2.0
// What a program with the same libraries and no ziya includes: the yardstick of compile_time.py.
#include <Eigen/Core>
#include <nlohmann/json.hpp>
#include <sentencepiece_processor.h>
#include <immintrin.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <thread>
#include <vector>
int main() { return nlohmann::json::parse("1").is_number() ? 0 : 1; }
