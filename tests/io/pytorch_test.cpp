// SPDX-License-Identifier: Apache-2.0
// PyTorch files: what torch.save wrote reads back exactly, and nothing else is carried out.
#include "ziya/io/pytorch.hpp"

#include <catch2/catch.hpp>
#include <map>

#include "io/zip_builder.hpp"
#include "support/errors.hpp"
#include "support/temporary_directory.hpp"
#include "ziya/io/checkpoint.hpp"

namespace pytorch_test {

using test::little;
using test::make_zip;
using test::TemporaryDirectory;
using namespace std::string_literals;

const std::filesystem::path data = ZIYA_TEST_DATA "/torch";
const std::filesystem::path fixtures = ZIYA_SHARED_DATA "/torch-fixtures";

std::vector<std::byte> bytes_of(const ziya::Checkpoint& checkpoint, const std::string& name) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(checkpoint.find(name)->bytes()));
  checkpoint.read(name, bytes);
  return bytes;
}

// Pickle by hand: each helper gives the opcodes that push one value.
const std::string proto = "\x80\x02";
std::string text(const std::string& value) { return "X" + little(value.size(), 4) + value; }
std::string number(std::uint64_t value) { return "\x8a\x08" + little(value, 8); }
std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string tuple(const std::string& items) { return "(" + items + "t"; }
std::string storage(const std::string& type, const std::string& key, const std::string& elements) {
  return tuple(text("storage") + global("torch", type) + text(key) + text("cpu") + elements) + "Q";
}
std::string short_number(std::uint8_t value) {
  return "K" + std::string(1, static_cast<char>(value));
}
std::string tensor(const std::string& from, const std::string& offset, const std::string& extents,
                   const std::string& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple(from + offset + tuple(extents) + tuple(strides) + "\x89" +
               global("collections", "OrderedDict") + ")R") +
         "R";
}
std::string dict(const std::string& items) { return "}(" + items + "u"; }

struct PickleFile {
  TemporaryDirectory folder;
  std::string storage_data = std::string(24, 'd');

  /// Reads an archive around the pickle, with one storage "0" of 24 bytes.
  ziya::Checkpoint operator()(const std::string& pickle) const {
    return ziya::Checkpoint::open(
        folder.file("a.bin", make_zip({{"a/data.pkl", pickle}, {"a/data/0", storage_data}})));
  }
};

TEST_CASE("every kind of tensor that torch.save writes is read exactly", "[pytorch]") {
  const auto expected = ziya::Checkpoint::open(data / "expected.safetensors");
  std::map<std::string, std::size_t> tensors;
  for (const auto& info : expected.tensors()) {
    INFO(info.name);
    const std::string file = info.name.substr(0, info.name.find(':'));
    const std::string name = info.name.substr(file.size() + 1);
    const auto checkpoint = ziya::Checkpoint::open(data / (file + ".bin"));
    const auto* found = checkpoint.find(name);
    REQUIRE(found != nullptr);
    REQUIRE(found->dtype == info.dtype);
    REQUIRE(found->shape == info.shape);
    const auto bytes = bytes_of(expected, info.name);
    REQUIRE(bytes_of(checkpoint, name) == bytes);
    const auto mapped = checkpoint.map(name);
    REQUIRE(std::equal(bytes.begin(), bytes.end(), mapped.data));
    ++tensors[file];
    REQUIRE(checkpoint.tensors().size() >= tensors[file]);
  }
  REQUIRE(tensors.size() == 7);
  for (const auto& [file, count] : tensors) {
    REQUIRE(ziya::Checkpoint::open(data / (file + ".bin")).tensors().size() == count);
  }
}

TEST_CASE("any range and slice of a strided tensor is the same part of the whole", "[pytorch]") {
  const auto checkpoint = ziya::Checkpoint::open(data / "views.bin");
  for (const auto& info : checkpoint.tensors()) {
    INFO(info.name);
    const auto whole = bytes_of(checkpoint, info.name);
    const auto item = ziya::info(info.dtype).block_bytes;
    const std::int64_t count = info.shape.elements();
    for (std::int64_t first = 0; first < count; first = first * 2 + 1) {
      for (const std::int64_t n : {std::int64_t{1}, (count - first) / 2, count - first}) {
        std::vector<std::byte> part(static_cast<std::size_t>(n * item));
        checkpoint.read_elements(info.name, first, n, part);
        REQUIRE(std::equal(part.begin(), part.end(), whole.begin() + first * item));
      }
    }
    for (int dim = 0; dim < info.shape.rank(); ++dim) {
      const std::int64_t extent = info.shape[dim];
      std::int64_t inner = item;
      for (int i = dim + 1; i < info.shape.rank(); ++i) inner *= info.shape[i];
      const std::int64_t begin = extent / 3, end = extent - extent / 4;
      std::vector<std::byte> part(
          static_cast<std::size_t>(extent == 0 ? 0 : count * item / extent * (end - begin)));
      checkpoint.read(info.name, dim, begin, end, part);
      const auto rows =
          static_cast<std::int64_t>(part.size()) / std::max<std::int64_t>(1, (end - begin) * inner);
      for (std::int64_t row = 0; row < rows; ++row) {
        const auto* from = whole.data() + row * extent * inner + begin * inner;
        REQUIRE(std::equal(from, from + (end - begin) * inner,
                           part.data() + row * (end - begin) * inner));
      }
    }
  }
}

TEST_CASE("a transposed tensor larger than the read window is gathered in the file's order",
          "[pytorch]") {
  constexpr std::uint32_t rows = 700, columns = 1100;  // 3 MB of int32, value = its place
  PickleFile read;
  read.storage_data.clear();
  for (std::uint32_t i = 0; i < rows * columns; ++i) read.storage_data += little(i, 4);
  const auto checkpoint =
      read(proto +
           dict(text("w") + tensor(storage("IntStorage", "0", number(rows * columns)), number(0),
                                   number(columns) + number(rows), number(1) + number(columns))) +
           ".");
  const auto bytes = bytes_of(checkpoint, "w");
  for (std::uint32_t c = 0; c < columns; c += 13) {
    for (std::uint32_t r = 0; r < rows; ++r) {
      std::uint32_t value = 0;
      std::memcpy(&value, bytes.data() + (c * rows + r) * 4, 4);
      REQUIRE(value == r * columns + c);
    }
  }
}

TEST_CASE("the fixtures of PyTorch 1.13 agree with one another", "[pytorch][shared]") {
  if (!std::filesystem::exists(fixtures)) {
    WARN("SKIPPED: " << fixtures << " is absent");
    return;
  }
  const auto zip = ziya::Checkpoint::open(fixtures / "bin");
  const auto legacy = ziya::Checkpoint::open(fixtures / "bin-legacy");
  const auto halves = ziya::Checkpoint::open(fixtures / "safetensors-sharded");
  const auto wide = ziya::Checkpoint::open(fixtures / "bin-sharded");
  REQUIRE(ziya::Checkpoint::open(fixtures / "bin-bf16").find("model.norm.weight")->dtype ==
          ziya::DType::bf16);
  REQUIRE(zip.tensors().size() == 48);
  for (const auto& tensor : zip.tensors()) {
    INFO(tensor.name);
    REQUIRE(bytes_of(legacy, tensor.name) == bytes_of(zip, tensor.name));
    if (tensor.name == "lm_head.weight") continue;  // tied in the others
    REQUIRE(bytes_of(halves, tensor.name) == bytes_of(zip, tensor.name));
    const auto floats = bytes_of(wide, tensor.name), half = bytes_of(zip, tensor.name);
    for (std::size_t i = 0; i < half.size() / 2; ++i) {
      float value = 0;
      ziya::Half rounded;
      std::memcpy(&value, floats.data() + 4 * i, 4);
      std::memcpy(static_cast<void*>(&rounded), half.data() + 2 * i, 2);
      REQUIRE(ziya::to_half(value).bits == rounded.bits);
    }
  }
  for (const char* name : {"noncontiguous.bin", "parameter.bin", "shared-storage.bin"}) {
    REQUIRE(ziya::Checkpoint::open(fixtures / name).tensors().size() >= 3);
  }
  const auto strided = ziya::Checkpoint::open(fixtures / "noncontiguous.bin");
  std::vector<float> values(12);
  strided.read("strided", std::as_writable_bytes(std::span(values)));
  REQUIRE(values[11] == 22.0f);
}

TEST_CASE("opcodes and globals outside the list are refused, with name and place", "[pytorch]") {
  const PickleFile read;
  const std::string one = tensor(storage("FloatStorage", "0", short_number(6)), short_number(0),
                                 short_number(6), short_number(1));
  REQUIRE(read(proto + dict(text("w") + one) + ".").tensors().size() == 1);
  REQUIRE_ERROR(read(proto + global("os", "system") + text("true") + "\x85R."), "ZIYA-223",
                "os.system");
  REQUIRE_ERROR(read(proto + global("posix\x1b[2J", "system")), "ZIYA-223", "posix?[2J.system");
  REQUIRE_ERROR(read(proto + global("builtins", "eval")), "ZIYA-223", "(at byte ");
  REQUIRE_ERROR(read(proto + text("os") + text("system") + "\x93"), "ZIYA-223", "os.system");
  REQUIRE_ERROR(read(proto + global("torch._utils", "_rebuild_tensor_v3")), "ZIYA-223", "_v3");
  for (const auto& opcode : ziya::pickle::refused_opcodes) {
    REQUIRE_ERROR(read(proto + std::string(1, static_cast<char>(opcode.code))), "ZIYA-222",
                  std::string(opcode.name));
  }
  REQUIRE_ERROR(read(proto + "\xff"), "ZIYA-222", "unknown opcode (0xff)");
  REQUIRE_ERROR(read(proto + global("torch", "FloatStorage") + ")R."), "ZIYA-224", "arguments");
  REQUIRE_ERROR(read(proto + global("torch", "Size") + ")R."), "ZIYA-224", "arguments");
  REQUIRE_ERROR(read(proto + "K\1)R."), "ZIYA-224", "no function");
  REQUIRE_ERROR(read(proto + "]}b."), "ZIYA-222", "state");
}

TEST_CASE("broken pickles are refused", "[pytorch]") {
  const PickleFile read;
  const auto refused = [&](const std::string& pickle, const std::string& why) {
    INFO(why);
    REQUIRE_ERROR(read(pickle), "ZIYA-224", why);
  };
  refused("", "middle of an opcode");
  refused(proto + "}", "middle of an opcode");
  refused(proto + "X" + little(1000, 4) + "abc", "middle of a text");
  refused(proto + ".", "takes a value where there is none");
  refused(proto + "t", "closes a list that was not opened");
  refused(proto + "}(" + text("a") + "u.", "no such container");
  refused(proto + "]K\1s.", "takes a value");
  refused(proto + "}K\1a.", "no such container");
  REQUIRE_ERROR(read(proto + "(K\1."), "ZIYA-228", "no dict of tensors");
  refused("\x80\x01}.", "protocol 1");
  refused("\x80\x06}.", "protocol 6");
  refused(proto + "h\1", "recalls");
  refused(proto + "c" + std::string(300, 'm'), "more than 256 bytes");
  refused(proto + "K\1K\2\x93", "something else than texts");
  refused(proto + text("storage") + "Q", "short tuple");
  refused(proto + tuple(text("storage")) + "Q", "in a form that torch.save");
  refused(proto + storage("FloatStorage", "0", "J\xff\xff\xff\xff"), "in a form");
  refused(proto +
              tuple(text("storage") + global("torch", "Size") + text("0") + text("cpu") + "K\6") +
              "Q",
          "no storage type");
  refused(proto + tensor(text("x"), "K\0"s, "", ""), "something else than a storage");
  refused(proto + tensor(storage("FloatStorage", "0", "K\6"), text("x"), "", ""), "than sizes");
  refused(proto + tensor(storage("FloatStorage", "0", "K\6"), "K\0"s, "K\1K\1K\1K\1K\1K\1K\1K\1K\1",
                         "K\1"),
          "short tuple");
  // A value of one byte each: memory must not follow.
  refused(proto + std::string(2'100'000, 'N'), "more values than a model needs");
  refused(proto + std::string(2'100'000, '('), "more values than a model needs");
  refused(proto + "N" + std::string(2'100'000, '\x94'), "more values than a model needs");
}

TEST_CASE("tensors outside their storage are refused", "[pytorch]") {
  const PickleFile read;  // six floats
  const auto open = [&](const std::string& offset, const std::string& extents,
                        const std::string& strides, const std::string& elements = "K\6",
                        const std::string& key = "0") {
    return read(
        proto +
        dict(text("w") + tensor(storage("FloatStorage", key, elements), offset, extents, strides)) +
        ".");
  };
  const std::string zero = "K\0"s, huge = number(std::uint64_t{1} << 62);
  REQUIRE(open(zero, "K\2K\3", "K\3K\1").tensors()[0].shape == ziya::Shape{2, 3});
  REQUIRE(open("K\5", "", "").tensors()[0].bytes() == 4);
  REQUIRE(open("K\xff", "K\0K\5"s, "K\1K\1").tensors()[0].bytes() == 0);
  REQUIRE_ERROR(open("K\6", "", ""), "ZIYA-225", "tensor w reaches outside");
  REQUIRE_ERROR(open("K\1", "K\2K\3", "K\3K\1"), "ZIYA-225", "outside");
  REQUIRE_ERROR(open(zero, "K\2", "K\6"), "ZIYA-225", "outside");
  REQUIRE_ERROR(open(huge, "K\2", huge), "ZIYA-225", "outside");
  REQUIRE_ERROR(open(zero, "K\2K\2", huge + huge), "ZIYA-225", "outside");
  REQUIRE_ERROR(open(zero, huge, zero), "ZIYA-225", "no shape");
  REQUIRE_ERROR(open(zero, number(1 << 20), zero), "ZIYA-225", "repeats a storage");
  REQUIRE_ERROR(open(zero, "K\2K\3", "K\3"), "ZIYA-225", "one stride per dimension");
  REQUIRE_ERROR(open(zero, "K\2", "K\1", "K\7"), "ZIYA-225", "needs a storage of 7");
  REQUIRE_ERROR(open(zero, "K\2", "K\1", huge), "ZIYA-225", "needs a storage of");
  REQUIRE_ERROR(open(zero, "K\2", "K\1", "K\6", "1"), "ZIYA-226", "data/1");
}

TEST_CASE("state dicts: wrapped ones are opened, others refused", "[pytorch]") {
  const PickleFile read;
  const std::string one = tensor(storage("FloatStorage", "0", "K\6"), "K\0"s, "K\6", "K\1");
  const std::string inner = dict(text("w") + one);
  for (const char* key : {"state_dict", "model", "module"}) {
    REQUIRE(read(proto + dict(text("epoch") + "K\3" + text(key) + inner) + ".").tensors().size() ==
            1);
  }
  REQUIRE_ERROR(read(proto + dict(text("optimizer") + inner) + "."), "ZIYA-228", "no tensors");
  REQUIRE_ERROR(read(proto + one + "."), "ZIYA-228", "no dict");
  REQUIRE_ERROR(read(proto + dict(text("w") + one + text("w") + one) + "."), "ZIYA-228", "twice");
  // A dict that holds itself.
  REQUIRE_ERROR(read(proto + "}q\1" + text("model") + "h\1s."), "ZIYA-228", "no tensors");
}

TEST_CASE("zip archives: 64-bit forms, comments, damage", "[pytorch]") {
  const TemporaryDirectory folder;
  const std::string pickle =
      proto + dict(text("w") + tensor(storage("FloatStorage", "0", "K\6"), "K\0"s, "K\6", "K\1")) +
      ".";
  const auto items = [&] {
    return std::vector<test::ZipItem>{{"a/data.pkl", pickle}, {"a/data/0", std::string(24, 'x')}};
  };
  const auto open = [&](const std::string& bytes) {
    return ziya::Checkpoint::open(folder.file("a.bin", bytes));
  };
  REQUIRE(open(make_zip(items())).tensors().size() == 1);
  REQUIRE(open(make_zip(items(), {.zip64 = true})).tensors().size() == 1);
  REQUIRE(open(make_zip(items(), {.comment = "PK\x05\x06 not the end"})).tensors().size() == 1);
  const auto changed = [&](auto change, test::ZipOptions options = {}) {
    auto list = items();
    change(list[1]);
    return open(make_zip(list, options));
  };
  REQUIRE_ERROR(changed([](auto& item) { item.method = 8; }), "ZIYA-221", "a/data/0");
  REQUIRE_ERROR(changed([](auto& item) { item.flags = 1; }), "ZIYA-221", "encrypted");
  REQUIRE_ERROR(changed([](auto& item) { item.size_delta = 1; }), "ZIYA-221", "stored");
  REQUIRE_ERROR(changed([](auto& item) { item.offset_delta = 1; }), "ZIYA-220", "within the file");
  REQUIRE_ERROR(changed([](auto& item) { item.offset_delta = 1 << 30; }), "ZIYA-220", "truncated");
  REQUIRE_ERROR(changed([](auto& item) { item.extra = "\1\0\xff\xff"s; }), "ZIYA-220", "damaged");
  REQUIRE_ERROR(changed([](auto& item) { item.name = "a/data.pkl"; }), "ZIYA-220", "damaged");
  REQUIRE_ERROR(changed([](auto& item) { item.name = "a/data/1"; }), "ZIYA-226", "data/0");
  REQUIRE_ERROR(open(make_zip(items(), {.missing_entries = 1})), "ZIYA-220", "damaged");
  REQUIRE_ERROR(open(make_zip({{"a/b", "c"}})), "ZIYA-226", "without data.pkl");
  REQUIRE_ERROR(open(make_zip({{"data.pkl", pickle}})), "ZIYA-226", "without data.pkl");
  const std::string whole = make_zip(items()), large = make_zip(items(), {.zip64 = true});
  for (std::size_t size = 20; size < whole.size(); size += 7) {
    REQUIRE_ERROR(open(whole.substr(0, size)), "ZIYA-220", "a.bin");
  }
  for (std::size_t at = large.size() - 100; at < large.size();
       ++at) {  // any bit of the end records
    std::string broken = large;
    broken[at] = static_cast<char>(broken[at] ^ 0x41);
    const std::string message = test::error_of([&] { open(broken); });
    REQUIRE_THAT(message, Catch::Contains("[ZIYA-22") || Catch::Equals("no error"));
  }
}

TEST_CASE("checksums find changed data", "[pytorch]") {
  const TemporaryDirectory folder;
  const std::string digits = "123456789";  // for which the standard gives the result
  REQUIRE(ziya::crc32(std::as_bytes(std::span(digits))) == 0xCBF43926);
  std::string bytes = make_zip({{"a/x", std::string(3'000'000, 'x')}});
  const auto intact = [&] {
    const ziya::InputFile file(folder.file("a.zip", bytes));
    return ziya::zip::intact(file, *ziya::zip::find(ziya::zip::read_directory(file), "a/x"));
  };
  REQUIRE(intact());
  bytes[2'500'000] ^= 1;
  REQUIRE(!intact());
}

TEST_CASE("archives of a big-endian machine are refused", "[pytorch]") {
  REQUIRE_ERROR(ziya::Checkpoint::open(data / "big_endian.bin"), "ZIYA-227", "\"big\"");
}

TEST_CASE("damaged files of the format before 1.6 are refused", "[pytorch]") {
  const TemporaryDirectory folder;
  const std::string whole = test::read_file(data / "legacy.bin");
  const auto open = [&](const std::string& bytes) {
    return ziya::Checkpoint::open(folder.file("a.bin", bytes));
  };
  REQUIRE(open(whole).tensors().size() == 3);
  for (std::size_t size = 14; size < whole.size(); ++size) {
    REQUIRE_THAT(test::error_of([&] { open(whole.substr(0, size)); }), Catch::Contains("[ZIYA-22"));
  }
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string bytes = whole;
    REQUIRE(bytes.find(from) != std::string::npos);
    return open(bytes.replace(bytes.find(from), from.size(), to));
  };
  REQUIRE_ERROR(replaced("M\xe9\3", "M\xea\3"), "ZIYA-229", "protocol 1002");
  REQUIRE_ERROR(replaced(text("little_endian") + "q\2\x88", text("little_endian") + "q\2\x89"),
                "ZIYA-227", "big-endian");
}

}  // namespace pytorch_test
