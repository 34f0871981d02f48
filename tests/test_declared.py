"""Every package that product code imports is declared in pyproject.toml, and every extra that it needs is said."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PRODUCT = ("ss4rec", "ray_jobs", "tuning", "drift", "cluster")
GUARDED = {
    # Imported where it is installed, and its absence is said: the extra that brings it, or what brings it.
    "alibi_detect": "alibi",
    "mamba_ssm": "gpu",
    "causal_conv1d": "gpu",
    "mlflow": "mlflow",
    "fastapi": "serve",
    "starlette": "serve",
    "prometheus_client": "serve",
    "uvicorn": "serve",
    "onnxruntime": "onnx",
    "psycopg": "postgres",
    "hnswlib": "ann",
    "faiss": "whoever wants its index has it; its absence is said",
    "grpc": "ray[default] brings it, and its errors are what is caught",
    "polars": "tables of Polars: whoever passes one has it",
    "triton": "a CUDA build of torch brings it",
    "jsonschema": "cluster.validate, a tool of the checkout (dev)",
    "yaml": "cluster.validate, a tool of the checkout (dev)",
}


def imported(folder):
    """Yield (package, file) of each import that is no sibling's and not of the standard library."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top not in PRODUCT:
                    yield top, path.relative_to(ROOT)


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    brings = packages_distributions()
    missing = {}
    for folder in PRODUCT:
        for package, path in imported(folder):
            names = {canonicalize_name(name) for name in brings.get(package, [package])}
            if not names & declared and package not in GUARDED:
                missing.setdefault(package, str(path))
    assert missing == {}


def test_what_is_excused_is_still_imported_and_its_extra_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    used = {package for folder in PRODUCT for package, _ in imported(folder)}
    assert set(GUARDED) <= used, set(GUARDED) - used
    for package, extra in GUARDED.items():
        if " " not in extra and "." not in extra:
            assert extra in extras, package
