// SPDX-License-Identifier: Apache-2.0
// Products of quantised weights and 8-bit activations with AVX-512 VNNI, and with AMX.
#pragma once

#include "ziya/config.hpp"

#if ZIYA_X86
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ziya/backend/cpu/kernels.hpp"
#include "ziya/backend/cpu/x86/amx_tiles.hpp"
#include "ziya/backend/cpu/x86/avx512_bytes.hpp"
#include "ziya/backend/cpu/x86/avx512_decode_16.hpp"
#include "ziya/backend/cpu/x86/avx512_decode_256.hpp"
#include "ziya/backend/cpu/x86/avx512_decode_32.hpp"
#include "ziya/backend/cpu/x86/avx512_tiles.hpp"
#include "ziya/backend/cpu/x86/avx512_unpack_256.hpp"
#include "ziya/backend/cpu/x86/avx512_unpack_32.hpp"

ZIYA_NAMESPACE_BEGIN
namespace avx512 {

/// `count` ≤ 16 rows of `bytes` bytes, padded with zeros to 16 rows of group_bytes.
inline Rows padded(std::byte* scratch, const Rows& rows, std::int64_t count, std::int64_t bytes) {
  std::memset(scratch, 0, static_cast<std::size_t>(tile_rows * group_bytes));
  for (std::int64_t r = 0; r < count; ++r) {
    std::memcpy(scratch + r * group_bytes, rows.first + r * rows.stride,
                static_cast<std::size_t>(bytes));
  }
  return {scratch, group_bytes};
}

/// How the tiles of a format meet tokens.
template <class Format>
constexpr auto kernel_of() {
  if constexpr (Format::own_spans) {
    return ScaledBlocks<Format::offset, Format::minima>{};
  } else if constexpr (Format::scale_columns == 256) {
    return WholeGroups<Format::minima>{};
  } else {
    return ScaledGroups<Format::scale_columns, Format::minima>{};
  }
}

/// The same with AMX.
template <class Format>
constexpr auto tiled_kernel_of() {
  if constexpr (Format::own_spans) {
    return TiledBlocks<Format::minima>{};
  } else {
    return TiledWholeGroups<Format::minima, Format::scale_columns != 256>{};
  }
}

/// How many groups a panel has at most: with AMX, a group with sub-scales takes both tiles.
template <class Format>
constexpr std::int64_t panel_groups(bool amx) {
  constexpr bool planes = !Format::own_spans && Format::scale_columns != 256;
  return amx && planes ? 1 : UnpackedPanel::most_tiles;
}

/// A part of a product: groups [group, group + panel.count) of 2 × 16 rows; quants are signed for
/// AMX.
template <class Format>
ZIYA_TARGET_AVX512 inline void unpack_panel(UnpackedPanel& panel, const MatmulArguments& m,
                                            std::int64_t row, const std::int64_t (&counts)[2],
                                            std::int64_t group, Ahead& ahead, bool amx) {
  std::byte scratch[tile_rows * group_bytes];
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  const std::int64_t groups = activation_groups(m.columns);
  panel.count = std::min(panel_groups<Format>(amx), groups - group);
  for (std::int64_t i = 0; i < panel.count; ++i) {
    const std::int64_t g = group + i;
    const int columns = static_cast<int>(
        std::min(ActivationGroup::columns, m.columns - g * ActivationGroup::columns));
    panel.steps[i] = (columns + 31) / 32 * 8;
    for (int h = 0; h < 2; ++h) {
      UnpackedTile& tile = panel.tiles[i];
      Rows rows{m.weight + (row + h * tile_rows) * row_bytes + g * Format::group_size, row_bytes};
      if (counts[h] < tile_rows || Format::row_scales) {
        rows = padded(scratch, rows, counts[h], bytes_of(m.dtype, columns));
      }
      if constexpr (Format::row_scales) {
        for (std::int64_t r = 0; r < counts[h]; ++r) {
          tile.factors[h][r] = m.row_scales[row + h * tile_rows + r];
        }
      }
      if constexpr (!Format::own_spans && Format::scale_columns < 256) {
        if (amx) {
          Format::unpack(
              rows, columns, tile, h,
              KeepProducts<Format::scale_columns, Format::offset>{panel.tiles, h, ahead});
          continue;
        }
      }
      Format::unpack(rows, columns, tile, h,
                     KeepQuants{tile, h, ahead, bytes(amx ? Format::offset : 0)});
    }
  }
}

/// Outputs [begin, end): a few tokens by Decode; others meet panels of 32 rows × 512 columns
/// that are unpacked once for all of them. Tokens that fit stay in the second-level cache with all
/// their columns, and the rows are done panel by panel; of more 512 columns do, beside the sums of
/// block_rows rows.
template <class Format, class Decode>
ZIYA_TARGET_AVX512 inline void matmul_of_format(const MatmulArguments& m, std::int64_t begin,
                                                std::int64_t end, bool has_amx) {
  using Kernel = decltype(kernel_of<Format>());
  using Tiled = decltype(tiled_kernel_of<Format>());
  constexpr std::int64_t few = Decode::most_tokens;
  static_assert(few <= tokens_in_fours);
  const bool amx = has_amx && m.tokens >= Tiled::least_tokens;
  if (m.tokens == 1) return decode<Decode, 1>(m, begin, end);
  if (m.tokens <= few && !amx) return decode<Decode, few>(m, begin, end);
  constexpr std::int64_t panel_rows = 2 * tile_rows, block_rows = 256, most_tokens = 512;
  constexpr std::int64_t cached_groups = 600;
  const std::int64_t width = panel_groups<Format>(amx);
  static_assert(block_rows * most_tokens <= matmul_scratch_floats);
  UnpackedPanel panel;
  TileShapes shapes;
  const std::int64_t row_bytes = bytes_of(m.dtype, m.weight_stride);
  const std::int64_t groups = activation_groups(m.columns);
  for (std::int64_t t = 0, tokens = 0; t < m.tokens; t += tokens) {
    const std::int64_t left = m.tokens - t, parts = (left + most_tokens - 1) / most_tokens;
    tokens = (left + parts - 1) / parts;
    const bool cached = tokens * groups <= cached_groups;
    const std::int64_t block = cached ? panel_rows : block_rows;
    for (std::int64_t first = begin; first < end; first += block) {
      for (std::int64_t g = 0; g < groups; g += width) {
        const std::int64_t next = g + width, tiles = std::min(width, groups - g);
        const ActivationGroup* later = m.groups + (next < groups ? next : 0) * m.tokens + t;
        for (std::int64_t row = first; row < std::min(end, first + block); row += panel_rows) {
          const std::int64_t index = (row - first) / panel_rows;
          const TileSums kept{m.scratch + index * tokens * panel_rows, panel_rows};
          TileOperands o{m.groups + g * m.tokens + t,
                         m.tokens,
                         kept,
                         kept,
                         {},
                         reinterpret_cast<const char*>(later) + index % 7 * 64,
                         nullptr};
          if (g == 0) o.before = {nullptr, 0};
          if (next >= groups) o.after = {m.y + t * m.y_stride + row, m.y_stride};
          std::int64_t counts[2];
          for (int h = 0; h < 2; ++h) {
            counts[h] = std::clamp<std::int64_t>(end - row - h * tile_rows, 0, tile_rows);
            o.rows[h] = mask(counts[h]);
          }
          // the panel after this one: the rows below or, after the last ones, the next columns
          std::int64_t next_row = row + panel_rows, next_group = g;
          if (next_row >= std::min(end, first + block)) {
            next_group = next < groups ? next : 0;
            if (next < groups) next_row = first;
          }
          Ahead ahead(
              {m.weight + next_row * row_bytes + next_group * Format::group_size, row_bytes},
              std::min(panel_rows, end - next_row),
              std::min(width, groups - next_group) * Format::group_size,
              amx ? tokens : tokens * 8 * tiles / Kernel::tokens);
          o.ahead = &ahead;
          unpack_panel<Format>(panel, m, row, counts, g, ahead, amx);
          if (amx) {
            panel_times_tiles<Tiled>(panel, o, tokens, shapes);
          } else {
            panel_times_tokens(Kernel{}, panel, o, tokens);
          }
        }
      }
    }
  }
  shapes.release();
}

/// With AMX for many tokens where `amx` is set.
inline void matmul_quantised(const MatmulArguments& m, std::int64_t begin, std::int64_t end,
                             bool amx) {
  if (m.columns == 0) {
    for (std::int64_t t = 0; t < m.tokens; ++t) {
      for (std::int64_t r = begin; r < end; ++r) m.y[t * m.y_stride + r] = 0;
    }
    return;
  }
  switch (m.dtype) {
    case DType::q4_0:
      return matmul_of_format<Q4_0, DecodeQ4_0>(m, begin, end, amx);
    case DType::q4_1:
      return matmul_of_format<Q4_1, DecodeQ4_1>(m, begin, end, amx);
    case DType::q5_0:
      return matmul_of_format<Q5_0, DecodeQ5_0>(m, begin, end, amx);
    case DType::q5_1:
      return matmul_of_format<Q5_1, DecodeQ5_1>(m, begin, end, amx);
    case DType::q8_0:
      return matmul_of_format<Q8_0, DecodeQ8_0>(m, begin, end, amx);
    case DType::iq4_nl:
      return matmul_of_format<IQ4_NL, DecodeIQ4_NL>(m, begin, end, amx);
    case DType::q2_k:
      return matmul_of_format<Q2_K, DecodeQ2_K>(m, begin, end, amx);
    case DType::q3_k:
      return matmul_of_format<Q3_K, DecodeQ3_K>(m, begin, end, amx);
    case DType::q4_k:
      return matmul_of_format<Q4_K, DecodeQ4_K>(m, begin, end, amx);
    case DType::q5_k:
      return matmul_of_format<Q5_K, DecodeQ5_K>(m, begin, end, amx);
    case DType::q6_k:
      return matmul_of_format<Q6_K, DecodeQ6_K>(m, begin, end, amx);
    default:
      return matmul_of_format<Int8, DecodeInt8>(m, begin, end, amx);
  }
}

}  // namespace avx512
ZIYA_NAMESPACE_END
#endif
