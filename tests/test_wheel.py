"""A wheel has all that its verbs need: templates, pages, cluster files, and metadata that say what may be done with it.

`tools/first_hour.sh` installs it into a bare environment and uses it for an hour.
"""

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ss4rec", "ray_jobs", "tuning", "drift", "cluster")
FOR_READERS = {"tuning/README.md"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build it from a copy: setuptools writes beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    told = subprocess.run(build, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    (path,) = out.glob("ss4rec-*-py3-none-any.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Unpack it where no checkout is; return what runs a module there."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)

    def run(*words, **variables):
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=site.parent,
            env=os.environ | {"PYTHONPATH": str(site), "HOME": str(site)} | variables,
            capture_output=True,
            text=True,
        )

    return run


def test_every_file_of_the_packages_travels(wheel):
    """Seen to fail: without `drift = [..]` in pyproject.toml's package data."""
    there = {
        str(path.relative_to(ROOT))
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there - set(zipfile.ZipFile(wheel).namelist()) == FOR_READERS


def test_its_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    about = email.message_from_string(archive.read(name).decode())
    assert about["License-Expression"] == "Apache-2.0"
    assert about.get_all("License-File") == ["LICENSE"]
    bare = [line for line in about.get_all("Requires-Dist") if "extra ==" not in line]
    assert any(line.startswith("torch") for line in bare)
    assert not any(line.startswith(("alibi", "pytest", "fastapi")) for line in bare)


def test_verbs_run_from_it(installed, tmp_path):
    told = installed("-m", "ss4rec.cli", "--version")
    assert told.stdout.startswith("ss4rec "), told.stderr
    where = installed(
        "-c", "import ss4rec, cluster, drift; print(ss4rec.__file__, cluster.__file__, drift.__file__)"
    )
    assert str(ROOT) not in where.stdout, "a checkout is used instead"
    assert installed("-m", "cluster.local", "status", SS4REC_STATE=str(tmp_path)).stdout == "not running\n"
    made = installed(
        "-m", "ss4rec.cli", "data", "synth", "--out", tmp_path / "d", "--users", 40, "--items", 150
    )
    assert made.returncode == 0, made.stderr
    audit = ("data", "audit", "--data", tmp_path / "d", "--html", tmp_path / "page.html")
    audited = installed("-m", "ss4rec.cli", *audit)
    assert audited.returncode == 0, audited.stderr
    assert "<html" in (tmp_path / "page.html").read_text(), "its template is there"
