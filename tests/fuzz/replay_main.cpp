// SPDX-License-Identifier: Apache-2.0
// Feeds every file of a corpus folder to a fuzz target, with any compiler and no fuzzer, in 512 MB
// and 5 s of processor time each, which a sanitizer's own memory and slowness are not held to.
#include <sys/resource.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool limited = false;
#elif defined(__has_feature)
constexpr bool limited = !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer);
#else
constexpr bool limited = true;
#endif

/// Whether the target takes no more than 5 s for it.
bool replayed(const std::vector<char>& bytes, std::size_t size) {
  const std::clock_t begin = std::clock();
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), size);
  return !limited || static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC <= 5;
}

int main(int argc, char** argv) {
  const rlimit memory{rlim_t{512} << 20, rlim_t{512} << 20};
  if (limited && setrlimit(RLIMIT_DATA, &memory) != 0) return 1;
  int inputs = 0;
  for (int i = 1; i < argc; ++i) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i])) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
      // Whole, and damaged forms: cut at every eighth of its length.
      for (std::size_t part = 0; part <= 8; ++part) {
        if (!replayed(bytes, bytes.size() * part / 8)) {
          std::printf("%s: more than 5 s\n", entry.path().c_str());
          return 1;
        }
      }
      ++inputs;
    }
  }
  std::printf("%d inputs\n", inputs);
  return inputs == 0 ? 1 : 0;
}
