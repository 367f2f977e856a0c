// SPDX-License-Identifier: Apache-2.0
// PyTorch files that are written: byte for byte the file that torch.load was seen to read
// (tests/reference/pytorch_written.py), readable here, aligned, and beyond 4 GB.
#include "ziya/io/pytorch_writer.hpp"

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "support/errors.hpp"
#include "support/fault.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/io/checkpoint.hpp"
#include "ziya/io/zip.hpp"

namespace pytorch_writer_test {

using test::Fault;
using test::faulty;
using test::TemporaryDirectory;
using ziya::DType;
using ziya::Shape;
using ziya::TensorSpec;

const std::vector<TensorSpec> specs{{"f16", DType::f16, {3, 5}},
                                    {"none", DType::f16, {0, 4}},
                                    {"bf16", DType::bf16, {2, 7}},
                                    {"f32", DType::f32, {5}},
                                    {"f64", DType::f64, {1, 2, 3}},
                                    {"i64", DType::i64, {2, 2}},
                                    {"i32", DType::i32, {3}},
                                    {"i16", DType::i16, {3}},
                                    {"i8", DType::i8, {3}},
                                    {"u8", DType::u8, {3}},
                                    {"scalar", DType::boolean, Shape{}},
                                    {"wide", DType::f16, {7, 100}}};

/// Byte i of tensor t: small numbers in every type, 0 and 1 for bool.
std::vector<std::byte> contents(const TensorSpec& spec) {
  std::vector<std::byte> data(static_cast<std::size_t>(spec.bytes()));
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<std::byte>(spec.dtype == DType::boolean ? 1 : (i * 7 + 3) % 61);
  }
  return data;
}

template <class Writer>
void fill(Writer& writer, std::size_t piece) {
  for (const TensorSpec& spec : writer.tensors()) {
    const auto data = contents(spec);
    for (std::size_t i = 0; i < data.size(); i += piece) {
      writer.write(spec.name, std::span(data).subspan(i, std::min(piece, data.size() - i)));
    }
  }
}

void require_contents(const std::filesystem::path& path) {
  const auto checkpoint = ziya::Checkpoint::open(path);
  REQUIRE(checkpoint.tensors().size() == specs.size());
  for (const TensorSpec& spec : specs) {
    INFO(spec.name);
    const auto* found = checkpoint.find(spec.name);
    REQUIRE(found != nullptr);
    REQUIRE(found->dtype == spec.dtype);
    REQUIRE(found->shape == spec.shape);
    std::vector<std::byte> data(static_cast<std::size_t>(spec.bytes()));
    checkpoint.read(spec.name, data);
    REQUIRE(data == contents(spec));
  }
}

TEST_CASE("a PyTorch file is the one that torch.load reads, however it is written", "[pytorch]") {
  const TemporaryDirectory folder;
  const auto path = folder / "written.bin";
  for (const std::size_t piece : {std::size_t{1}, std::size_t{4093}, std::size_t{1} << 20}) {
    ziya::PytorchWriter writer(path, specs, faulty(Fault::short_write));
    fill(writer, piece);
    writer.commit();
    const bool same = test::read_file(path) == test::read_file(ZIYA_TEST_DATA "/torch/written.bin");
    REQUIRE(same);
  }
  require_contents(path);
}

TEST_CASE("the data of every written PyTorch tensor is aligned and its checksum holds",
          "[pytorch]") {
  const TemporaryDirectory folder;
  const auto path = folder / "a.bin";
  ziya::PytorchWriter writer(path, specs);
  fill(writer, 100);
  writer.commit();
  const ziya::InputFile file(path);
  const auto entries = ziya::zip::read_directory(file);
  REQUIRE(entries.size() == specs.size() + 3);
  for (const auto& entry : entries) {
    INFO(entry.name);
    REQUIRE(entry.offset % 64 == 0);
    REQUIRE(ziya::zip::intact(file, entry));
  }
}

TEST_CASE("PyTorch checkpoints are written in shards with an index", "[pytorch]") {
  const TemporaryDirectory folder;
  ziya::ShardedPytorchWriter writer(folder.path(), specs, 100);
  REQUIRE(writer.shards() == 4);
  fill(writer, 64);
  REQUIRE(!ziya::Checkpoint::exists(folder.path()));
  writer.commit();
  REQUIRE(std::filesystem::exists(folder / "pytorch_model-00004-of-00004.bin"));
  require_contents(folder.path());
}

TEST_CASE("tensors of a PyTorch file come once, in turn and whole", "[pytorch]") {
  const TemporaryDirectory folder;
  const std::vector<std::byte> bytes(64);
  {
    ziya::PytorchWriter writer(folder / "a.bin", {{"a", DType::f32, {2}}, {"b", DType::f32, {2}}});
    REQUIRE_ERROR(writer.write("b", std::span(bytes).first(8)), "ZIYA-215", "tensor b");
    REQUIRE_ERROR(writer.write("a", std::span(bytes).first(9)), "ZIYA-215", "9 bytes");
    writer.write("a", std::span(bytes).first(8));
    REQUIRE_ERROR(writer.commit(), "ZIYA-215", "tensor b was not written");
  }
  REQUIRE(test::count_entries(folder.path()) == 0);
  const std::vector<TensorSpec> twice{{"a", DType::f32, {2}}, {"a", DType::f32, {2}}};
  REQUIRE_ERROR(ziya::PytorchWriter(folder / "a.bin", twice), "ZIYA-215", "tensor a");
  const std::vector<TensorSpec> quantised{{"q", DType::q4_0, {32}}};
  REQUIRE_ERROR(ziya::PytorchWriter(folder / "a.bin", quantised), "ZIYA-611", "q4_0");
  REQUIRE(test::count_entries(folder.path()) == 0);
}

TEST_CASE("a disk that fills up leaves no PyTorch file", "[pytorch]") {
  const TemporaryDirectory folder;
  for (const std::int64_t room : {0, 100, 2000, 4000}) {
    const auto write = [&] {
      ziya::PytorchWriter writer(folder / "a.bin", specs, faulty(Fault::disk_full, room));
      fill(writer, 1000);
      writer.commit();
    };
    REQUIRE_ERROR(write(), "ZIYA-206", "a.bin");
    REQUIRE(test::count_entries(folder.path()) == 0);
  }
}

TEST_CASE("a tensor of more than 4 GB and what follows it", "[pytorch]") {
  const TemporaryDirectory folder;
  const auto path = folder / "large.bin";
  const std::int64_t rows = 1 << 16, columns = (1 << 16) + 1;
  ziya::WriteHooks sparse;  // pieces of zeros take no room on the disk
  sparse.write = [](int fd, const void* data, std::size_t bytes) -> std::ptrdiff_t {
    if (bytes < (1 << 20)) return ziya::platform::write_some(fd, data, bytes);
    return lseek(fd, static_cast<off_t>(bytes), SEEK_CUR) < 0 ? -1
                                                              : static_cast<std::ptrdiff_t>(bytes);
  };
  sparse.sync = [](int) { return 0; };
  {
    ziya::PytorchWriter writer(
        path, {{"large", DType::u8, {rows, columns}}, {"small", DType::f32, {2}}}, sparse);
    const std::vector<std::byte> zeros(1 << 24);
    for (std::int64_t left = rows * columns; left > 0;) {
      const auto piece = std::min<std::int64_t>(left, 1 << 24);
      writer.write("large", std::span(zeros).first(static_cast<std::size_t>(piece)));
      left -= piece;
    }
    const std::array<float, 2> values{1.5f, -2};
    writer.write("small", std::as_bytes(std::span(values)));
    writer.commit();
  }
  const auto checkpoint = ziya::Checkpoint::open(path);
  REQUIRE(checkpoint.find("large")->shape == Shape{rows, columns});
  std::array<float, 2> values{};
  checkpoint.read("small", std::as_writable_bytes(std::span(values)));
  REQUIRE(values == std::array<float, 2>{1.5f, -2});
}

}  // namespace pytorch_writer_test
