"""Checks who imports whom, from the source alone: `python tools/imports.py`; exit code 1 with a line for each fault.

Four rules keep the layers apart:

1. Only `ss4rec/cluster/ray_private.py` imports Ray's internals, which change without notice.
2. The core loads no Ray: importing a module outside the Ray layer must not import Ray, itself or by others.
3. No circle of imports, late imports included; `if TYPE_CHECKING:` does not count. None through a package either:
   who imports `a.b.c` from outside loads `a.b` first.
4. No two test files of one name: pytest imports them by that alone.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ss4rec", "ray_jobs", "cluster", "tuning", "drift", "benchmarks", "tools", "tests")
PRIVATE = (
    "ray._",
    "ray.core.generated",
    "ray.train.v2._internal",
    "ray.train._internal",
    "ray.tune.execution",
)
PRIVATE += ("ray.data._internal", "ray.autoscaler._private")
PRIVATE_ALLOWED = ("ss4rec.cluster.ray_private", "cluster.validate", "tests.", "tools.soak")
"""The validator compares cluster files with Ray's own schemas; tests and the soak look inside."""
RAY_LAYER = (
    "ss4rec.cluster.",
    "ss4rec.doctor.nodes",
    "cluster.",
    "tuning.sweep",
    "benchmarks.",
    "tests.",
)
"""Beside these, each module whose own name starts with `ray_`."""


@dataclass
class Module:
    """What one file imports."""

    name: str
    at_load: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    """Inside functions."""

    @property
    def everything(self) -> set[str]:
        """All imports."""
        return self.at_load | self.late

    @property
    def in_ray_layer(self) -> bool:
        """Whether it may load Ray."""
        return self.name.startswith(RAY_LAYER) or self.name.rpartition(".")[2].startswith("ray_")


def read_modules(root: Path) -> dict[str, Module]:
    """Read every module of the project."""
    paths = {
        _name(path.relative_to(root)): path for folder in FOLDERS for path in (root / folder).rglob("*.py")
    }
    modules = {}
    for name, path in paths.items():
        modules[name] = module = Module(name)
        for node, late in _imports(ast.parse(path.read_text()), late=False):
            (module.late if late else module.at_load).update(_targets(node, paths))
    return modules


def faults(modules: Mapping[str, Module]) -> Iterator[str]:
    """Yield a sentence for each fault."""
    for module in modules.values():
        for target in sorted(module.everything):
            if target.startswith(PRIVATE) and not module.name.startswith(PRIVATE_ALLOWED):
                yield f"{module.name} imports {target}: only ss4rec.cluster.ray_private imports Ray's internals"
        if not module.in_ray_layer and (way := _way_to_ray(module.name, modules)):
            yield f"{module.name} loads Ray through {' -> '.join(way)}: import late, or name it ray_..."
    # An __init__ that offers what its own modules define is no circle for a reader.
    graph = {
        name: {target for target in module.everything if target in modules and target != name}
        for name, module in modules.items()
    }
    packages = {name.rpartition(".")[0] for name in modules}
    graph = {name: () if name in packages else targets for name, targets in graph.items()}
    for one in (graph, {name: _loaded(module, modules) for name, module in modules.items()}):
        try:
            TopologicalSorter(one).prepare()
        except CycleError as error:
            yield f"circle of imports: {' <- '.join(error.args[1])}"
    tests = Counter(name.rpartition(".")[2] for name in modules if name.startswith("tests."))
    for name in sorted(name for name, count in tests.items() if count > 1 and name.startswith("test_")):
        yield f"{tests[name]} test files are named {name}.py: pytest knows them by that name alone"


def _loaded(module: Module, modules: Mapping[str, Module]) -> set[str]:
    """Return what runs before a module is loaded: what it imports, and the packages around that, if it is outside."""
    found = set()
    for target in module.at_load & modules.keys() - {module.name}:
        parts = target.split(".")
        around = {".".join(parts[:end]) for end in range(1, len(parts))} & modules.keys()
        found |= {target} | {name for name in around if not f"{module.name}.".startswith(f"{name}.")}
    return found


def _way_to_ray(name: str, modules: Mapping[str, Module]) -> list[str]:
    """Return the modules that are loaded with `name` on the way to Ray; empty if it is not loaded."""
    ways, seen = [[name]], {name}
    while ways:
        way = ways.pop()
        for target in sorted(modules[way[-1]].at_load):
            if target.split(".")[0] == "ray":
                return [*way[1:], target]
            if target in modules and target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []


def _imports(tree: ast.AST, late: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield import statements and whether they run inside a function; those for type checkers are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, late
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        else:
            inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(node, inside)


def _targets(node: ast.Import | ast.ImportFrom, known: Mapping[str, Path]) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    assert not node.level, "relative imports are not used here"
    base = node.module or ""
    return {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}


def _name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


if __name__ == "__main__":
    found = list(faults(read_modules(ROOT)))
    print("\n".join(found) or "imports: nothing to say")
    sys.exit(bool(found))
