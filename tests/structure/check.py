#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rules about the tree that no compiler checks; one function per rule, each prints what breaks it.

usage: check.py RULE [ROOT]     exit status 1 when the rule is broken
"""
import pathlib
import re
import sys

# Who may include whom: docs/architecture.md.
LAYERS = {
    "config": set(),
    "core": set(),
    "backend": {"core"},
    "ops": {"core", "backend"},
    "io": {"core"},
    "text": {"core", "io"},
    "nn": {"core", "ops"},
    "model": {"core", "ops", "nn", "io"},
    "generate": {"core", "io", "ops", "text", "nn", "model"},
    "convert": {"core", "ops", "io", "model", "text"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)


def headers(root):
    """What is included: .hpp by every compiler, .cuh by nvcc alone."""
    include = root / "include/ziya"
    return sorted([*include.rglob("*.hpp"), *include.rglob("*.cuh")])


def name_of(root, path):
    return path.relative_to(root / "include").as_posix()


def includes(path):
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


UMBRELLAS = ("ziya/ziya.hpp", "ziya/convert.hpp")


def layers(root):
    """Headers include only the layers below theirs; Eigen, intrinsics, OpenSSL stay in their places."""
    for path in headers(root):
        name = name_of(root, path)
        parts = name.split("/")
        layer = parts[1] if len(parts) > 2 else "config"
        for include in includes(path):
            if name in UMBRELLAS:
                continue
            if include in UMBRELLAS:
                yield f"{name} includes an umbrella"
            if include.startswith("ziya/"):
                other = include.split("/")
                below = other[1] if len(other) > 2 else "config"
                if below not in LAYERS.get(layer, set()) | {layer, "config"}:
                    yield f"{name} ({layer}) may not include {include} ({below})"
            if include.startswith(("Eigen/", "unsupported/Eigen")) and name != "ziya/backend/cpu/eigen.hpp":
                yield f"{name} includes {include}; only backend/cpu/eigen.hpp may"
            if include.startswith(("cuda", "cublas")) and not name.startswith("ziya/backend/cuda/"):
                yield f"{name} includes {include}; only backend/cuda/ may"
            if include.endswith(".cuh") and not name.startswith("ziya/backend/cuda/"):
                yield f"{name} includes {include}; only backend/cuda/ may"
            if include == "immintrin.h" and not name.startswith("ziya/backend/cpu/x86/"):
                yield f"{name} includes immintrin.h; only backend/cpu/x86/ may"
            if include.startswith("sentencepiece") and not name.startswith("ziya/text/"):
                yield f"{name} includes {include}; only text/ may"
            if include.startswith("openssl/") and name != "ziya/convert/digest.hpp":
                yield f"{name} includes {include}; only convert/digest.hpp may"
            if include.startswith("nlohmann/") and name != "ziya/io/json.hpp":
                yield f"{name} includes {include}; only io/json.hpp may"


def umbrella(root):
    """Every header is named by one umbrella; what ziya.hpp names needs nothing of convert.hpp's."""
    running, converting = (set(includes(root / "include" / whole)) for whole in UMBRELLAS)
    for path in headers(root):
        name = name_of(root, path)
        if name in UMBRELLAS or path.suffix != ".hpp":
            continue
        if (name in running) == (name in converting):
            yield f"{name} is named by {'both umbrellas' if name in running else 'no umbrella'}"
        if name.startswith("ziya/convert/") and name in running:
            yield f"ziya/ziya.hpp names {name}; what converts belongs to ziya/convert.hpp"
        for include in includes(path):
            if name in running and include in converting:
                yield f"{name}, which ziya/ziya.hpp names, includes {include} of ziya/convert.hpp"
    for name in running | converting:
        if name.startswith("ziya/") and not (root / "include" / name).exists():
            yield f"an umbrella names {name}, which does not exist"


def opening(root):
    """Every header opens with the licence tag, a sentence and #pragma once, and stays short."""
    for path in headers(root):
        name = name_of(root, path)
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines or lines[0] != "// SPDX-License-Identifier: Apache-2.0":
            yield f"{name}: the first line is not the licence tag"
        if len(lines) < 3 or not lines[1].startswith("// "):
            yield f"{name}: the second line does not say what the header is"
        if "#pragma once" not in lines[:8]:
            yield f"{name}: #pragma once is not among the first lines"
        if len(lines) > 400:
            yield f"{name}: {len(lines)} lines, at most 400"


def errors(root):
    """Every error id thrown is documented, every documented id is thrown and tested; types agree."""
    documented = {}
    text = (root / "docs/errors.md").read_text(encoding="utf-8")
    for identifier, kind in re.findall(r"^\|\s*(ZIYA-\d+)\s*\|\s*(\w+)\s*\|", text, re.M):
        if identifier in documented:
            yield f"docs/errors.md lists {identifier} twice"
        documented[identifier] = kind
    used = {}
    sources = headers(root) + sorted((root / "examples").rglob("*.[ch]pp"))
    for path in sources:
        source, where = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
        for identifier in re.findall(r'"(ZIYA-\d+)"', source):
            used.setdefault(identifier, where)
        for kind, identifier in re.findall(r'throw\s+(?:\w+::)*(\w+)\(\s*"(ZIYA-\d+)"', source):
            wanted = documented.get(identifier, kind)
            if kind != wanted and (kind, wanted) != ("UsageError", "ArgumentError"):
                yield f"{where} throws {identifier} as {kind}; docs/errors.md says {wanted}"
    for identifier, where in sorted(used.items()):
        if identifier not in documented:
            yield f"{where} throws {identifier}, which docs/errors.md does not list"
    for identifier in sorted(set(documented) - set(used)):
        yield f"docs/errors.md lists {identifier}, which nothing throws"
    pages = {path.name: set(re.findall(r"ZIYA-\d+", path.read_text(encoding="utf-8")))
             for path in sorted((root / "docs").glob("merging*.md"))}
    for name, named in pages.items():
        if named != pages["merging.md"]:
            yield f"docs/{name} and docs/merging.md do not name the same ids"
        for identifier in sorted(named - set(documented)):
            yield f"docs/{name} names {identifier}, which docs/errors.md does not list"
    tested = set()
    for path in (root / "tests").rglob("*"):
        if path.suffix in (".cpp", ".py") and path.name != "check.py":
            tested |= set(re.findall(r"ZIYA-\d+", path.read_text(encoding="utf-8")))
    for identifier in sorted(set(documented) - tested):
        yield f"docs/errors.md lists {identifier}, which no test names"


SYSTEM = {r"sys/\w+|unistd|fcntl": "io/platform.hpp", "sched|pthread": "backend/cpu/thread_pool.hpp",
          "cpuid": "backend/cpu/isa.hpp"}


def platform(root):
    """What belongs to one operating system or processor family is asked for in one header each."""
    for path in headers(root):
        name = path.relative_to(root / "include/ziya").as_posix()
        text = path.read_text(encoding="utf-8")
        for pattern, home in SYSTEM.items():
            for found in re.findall(rf"#include <({pattern})\.h>", text):
                if name != home:
                    yield f"{name} includes <{found}.h>, which is {home}'s business"


def readmes(root):
    """The READMEs in three languages show the same commands and programs."""
    def blocks(name):
        return re.findall(r"^```.*?^```", (root / name).read_text(encoding="utf-8"), re.M | re.S)
    english = blocks("README.md")
    if not english:
        yield "README.md shows no command"
    for twin in ("README.zh.md", "README.ja.md"):
        if blocks(twin) != english:
            yield f"the code blocks of {twin} differ from those of README.md"


def links(root):
    """Links between the project's own documents lead somewhere, and no path of a machine leaks."""
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "examples").rglob("*.md")]
    for page in pages:
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not (page.parent / target).exists():
                yield f"{page.relative_to(root)} links to {target}, which does not exist"


RULES = {rule.__name__: rule for rule in (layers, umbrella, opening, errors, platform, readmes, links)}


def main():
    rule = sys.argv[1]
    root = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else ".").resolve()
    broken = list(RULES[rule](root))
    print("\n".join(broken) if broken else f"{rule}: ok")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
