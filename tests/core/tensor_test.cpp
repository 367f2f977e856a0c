// SPDX-License-Identifier: Apache-2.0
// Shapes, views, tensors and the workspace.
#include "ziya/core/tensor.hpp"

#include <catch2/catch.hpp>
#include <limits>
#include <type_traits>

#include "support/errors.hpp"
#include "ziya/core/workspace.hpp"

namespace tensor_test {

using ziya::Shape;
using ziya::Tensor;
using ziya::View;

TEST_CASE("a shape counts its elements and refuses what cannot be", "[shape]") {
  REQUIRE(Shape{}.elements() == 1);
  REQUIRE(Shape{2, 3, 4}.elements() == 24);
  REQUIRE(Shape{2, 0}.elements() == 0);
  REQUIRE(Shape{2, 3}.to_string() == "(2, 3)");
  REQUIRE(Shape{2, 3} != Shape{3, 2});
  REQUIRE_ERROR((Shape{2, -1}), "ZIYA-102", "-1");
  REQUIRE_ERROR((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), "ZIYA-101", "9 dimensions");
  const std::int64_t big = std::numeric_limits<std::int64_t>::max() / 2;
  REQUIRE_ERROR((Shape{big, 3}), "ZIYA-103", "more elements");
}

TEST_CASE("views cut rows and columns without copying", "[view]") {
  Tensor<int> tensor(Shape{4, 6});
  for (int i = 0; i < 24; ++i) tensor.data()[i] = i;
  const View<int> view = tensor;
  REQUIRE(view.contiguous());
  const auto columns = view.column_range(2, 2);
  REQUIRE_FALSE(columns.contiguous());
  REQUIRE(columns.row(3)[1] == 21);
  const auto heads = columns.row_range(1, 2).reshape(Shape{2, 1, 2});
  REQUIRE(heads.row(1)[0] == 14);
  REQUIRE(heads.row_stride() == 6);
  REQUIRE_ERROR(columns.reshape(Shape{8}), "ZIYA-104", "not adjacent");
  REQUIRE_ERROR(view.reshape(Shape{5, 5}), "ZIYA-104", "(4, 6) to (5, 5)");
  REQUIRE_ERROR(view.row_range(3, 2), "ZIYA-105", "3 + 2 of 4");
  REQUIRE_ERROR(view.column_range(-1, 2), "ZIYA-105", "-1 + 2 of 6");
  static_assert(std::is_convertible_v<View<int>, View<const int>>);
  static_assert(!std::is_convertible_v<View<const int>, View<int>>);
  static_assert(!std::is_convertible_v<View<int, ziya::Cuda>, View<int, ziya::Cpu>>);
}

TEST_CASE("a tensor is aligned, moves, and copies only when told to", "[tensor]") {
  Tensor<float> a(Shape{3});
  a.data()[2] = 5;
  REQUIRE(reinterpret_cast<std::uintptr_t>(a.data()) % 64 == 0);
  const Tensor<float> b = a.to<ziya::Cpu>();
  REQUIRE(b.data() != a.data());
  REQUIRE(b.data()[2] == 5);
  const float* before = a.data();
  const Tensor<float> c = std::move(a);
  REQUIRE(c.data() == before);
  static_assert(!std::is_copy_constructible_v<Tensor<float>>);
}

TEST_CASE("a workspace gives back what a scope took and settles in one piece", "[workspace]") {
  ziya::Workspace<ziya::Cpu> workspace;
  const auto step = [&] {
    ziya::Workspace<ziya::Cpu>::Scope outer(workspace);
    const auto a = workspace.take<float>(Shape{300'000});
    float* inner_data = nullptr;
    {
      ziya::Workspace<ziya::Cpu>::Scope inner(workspace);
      inner_data = workspace.take<float>(Shape{400'000}).data();
      inner_data[399'999] = 1;
    }
    const auto c = workspace.take<float>(Shape{10});
    REQUIRE(c.data() == inner_data);  // the inner scope's memory is free again
    a.data()[299'999] = 2;
    REQUIRE(reinterpret_cast<std::uintptr_t>(a.data()) % 64 == 0);
  };
  step();
  const std::size_t settled = workspace.capacity();
  for (int i = 0; i < 3; ++i) step();
  REQUIRE(workspace.capacity() == settled);
}

}  // namespace tensor_test
