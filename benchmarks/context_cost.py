# SPDX-License-Identifier: Apache-2.0
"""What a token costs against the length of its context and the number of threads.

usage: context_cost.py PROGRAM [--model MODEL | --random-weights 1b --type q4_0] [--cache-dtype f16]
                       [--lengths 128 256 …] [--threads 1 2] [-r 3] [--plot FILE.svg]

For each number of threads and each length, in turn and -r times over: `ziya bench` of a prompt of
that length and of 16 tokens behind that many. Printed: medians, milliseconds per token, and the
medians of the shares of the read bandwidth and of the arithmetic rate of the same process. --plot
draws the milliseconds of a decoded token and of a token of the prompt against the length.
"""
import argparse
import json
import math
import pathlib
import statistics
import subprocess

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 300, 58, 46, 34
COLOURS = ("#1f6fb2", "#d1622b", "#3b8f4a", "#8a4fa3")


def measured(options, threads, length):
    source = [options.model] if options.model else [
        "--random-weights", options.random_weights, "--type", options.type]
    output = subprocess.run(
        [options.program, "bench", *source, "-p", str(length), "-n", "16", "-d", str(length),
         "-r", "1", "--threads", str(threads), "--cache-dtype", options.cache_dtype, "--json"],
        check=True, capture_output=True, text=True).stdout
    return {test["test"][:2]: test for test in json.loads(output)}


def panel(title, left, lengths, curves):
    """One diagram: lengths on a logarithmic axis, milliseconds from nought up."""
    top = 1.1 * max(value for curve in curves.values() for value in curve)
    right, floor = left + WIDTH - 20, HEIGHT - BOTTOM
    first, last = math.log2(lengths[0]), math.log2(lengths[-1])

    def place(length, value):
        along = (math.log2(length) - first) / ((last - first) or 1)
        x = left + LEFT + (right - left - LEFT) * along
        return x, floor - (floor - TOP) * value / top

    parts = [f'<text x="{left + LEFT}" y="18" font-weight="bold">{title}</text>',
             f'<path d="M{left + LEFT} {TOP}V{floor}H{right}" fill="none" stroke="#444"/>']
    for length in lengths:
        x, _ = place(length, 0)
        parts.append(f'<text x="{x:.0f}" y="{floor + 16}" text-anchor="middle">{length}</text>')
    parts.append(f'<text x="{(left + LEFT + right) / 2:.0f}" y="{floor + 34}" '
                 'text-anchor="middle">tokens of context</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = top / 1.1 * share
        _, y = place(lengths[0], value)
        parts.append(f'<text x="{left + LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">'
                     f'{value:.3g}</text>')
    for colour, (name, curve) in zip(COLOURS, curves.items()):
        points = [place(*pair) for pair in zip(lengths, curve)]
        parts.append('<polyline fill="none" stroke-width="2" stroke="%s" points="%s"/>' % (
            colour, " ".join(f"{x:.1f},{y:.1f}" for x, y in points)))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        x, y = points[-1]
        parts.append(f'<text x="{x:.0f}" y="{y - 8:.0f}" text-anchor="end" fill="{colour}">'
                     f'{name}</text>')
    return "\n".join(parts)


def plot(path, lengths, decode, prompt):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n'
        + panel("decode, ms per token", 0, lengths, decode) + "\n"
        + panel("prompt, ms per token", WIDTH, lengths, prompt) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("program")
    parser.add_argument("--model")
    parser.add_argument("--random-weights", default="1b")
    parser.add_argument("--type", default="q4_0")
    parser.add_argument("--cache-dtype", default="f16")
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 256, 512, 1024, 2048])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("-r", type=int, default=3)
    parser.add_argument("--plot", type=pathlib.Path)
    options = parser.parse_args()
    options.lengths.sort()
    runs = {}
    for _ in range(options.r):
        for threads in options.threads:
            for length in options.lengths:
                runs.setdefault((threads, length), []).append(measured(options, threads, length))

    def median(key, test, name):
        return statistics.median(run[test][name] for run in runs[key])

    print("| threads | tokens | decode behind them | share of the bandwidth | prompt of them | "
          "share of the arithmetic rate |\n|---|---|---|---|---|---|")
    for key in runs:
        print(f"| {key[0]} | {key[1]} | {1e3 / median(key, 'tg', 'avg_ts'):.1f} ms | "
              f"{100 * median(key, 'tg', 'read_bandwidth_share'):.0f} % | "
              f"{1e3 / median(key, 'pp', 'avg_ts'):.2f} ms per token | "
              f"{100 * median(key, 'pp', 'arithmetic_share'):.0f} % |")
    if options.plot:
        decode, prompt = ({f"{n} thread" + "s" * (n > 1): [
            1e3 / median((n, length), test, "avg_ts") for length in options.lengths]
            for n in options.threads} for test in ("tg", "pp"))
        plot(options.plot, options.lengths, decode, prompt)


if __name__ == "__main__":
    main()
