"""What is shipped: names, imports, types and documentation."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import i2moe

ROOT = Path(__file__).parent.parent
CORE = ("_common", "losses", "missing", "moe", "perturbations")
"""The rooms that `import i2moe` brings."""
PACKAGES = (*CORE, "backbones", "categorization", "interpretation", "mmoe", "pid", "training")
PUBLIC_MODULES = [
    "interpretation",
    "interpretation.calibration",
    "interpretation.existing",
    "interpretation.monitoring",
    "interpretation.plots",
    "losses",
    "losses.heads",
    "missing",
    "moe",
    "moe.experts",
    "moe.experts.sharing",
    "moe.pruning",
    "moe.teacher",
    "moe.weights",
    "perturbations",
    "training",
]


def documented(name: str) -> Iterator[tuple[str, Any]]:
    """Every public function, class and method of a module."""
    module = importlib.import_module(f"i2moe.{name}")
    for exported in module.__all__:
        value = getattr(module, exported)
        if not inspect.isclass(value) and not inspect.isfunction(value):
            continue
        yield exported, value
        for method, function in vars(value).items() if inspect.isclass(value) else ():
            if not method.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                yield f"{exported}.{method}", function


def test_public_names() -> None:
    assert i2moe.__all__ == [
        "BackboneOutput",
        "ComputedReweighter",
        "InteractionLosses",
        "InteractionMoE",
        "InteractionOutput",
        "InteractionSupervision",
        "MMoE",
        "Reweighter",
        "Specialist",
        "StaticReweighter",
        "Teacher",
        "calibrate",
        "categorize",
        "explain",
        "interactions",
    ]
    assert all(hasattr(i2moe, name) for name in i2moe.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_of_a_package_says_what_it_is_and_exports(package: str) -> None:
    names = [module.name for module in pkgutil.walk_packages(i2moe.__path__, "i2moe.") if not module.ispkg]
    for name in (name for name in names if name.split(".")[1] == package):
        module = importlib.import_module(name)
        assert module.__doc__, name
        in_order = sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
        assert module.__all__ == in_order, name
        assert all(hasattr(module, exported) for exported in module.__all__), name
        assert len(Path(module.__file__ or "").read_text().splitlines()) <= 400, name


IMPORTING = """
import json, sys, time
import torch, einops, typing_extensions

random, before, start = torch.get_rng_state(), set(sys.modules), time.process_time()
import i2moe
seconds = time.process_time() - start
rooms = {f"{name}.".split(".")[1] for name in set(sys.modules) - before if name.startswith("i2moe")}
print(json.dumps([seconds, sorted(rooms), torch.equal(random, torch.get_rng_state())]))
"""


def test_import_brings_the_core_alone_fast_without_a_warning_and_leaves_the_random_state() -> None:
    """In a process apart, where nothing is imported yet; some, because the machine may be busy."""
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", IMPORTING], cwd=ROOT, capture_output=True, text=True, check=True
        )
        seconds, rooms, same_random_state = json.loads(done.stdout)
        assert rooms == sorted(["", *CORE])
        assert same_random_state
        if seconds < 0.06:
            return
    pytest.fail(f"importing i2moe must take less than 0.06 s of CPU time, however: {seconds}")


def test_types_are_shipped() -> None:
    assert resources.files("i2moe").joinpath("py.typed").is_file()


def test_dependencies_and_contents() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [re.split(r"[^\w-]", dependency)[0] for dependency in project["project"]["dependencies"]]
    assert names == ["torch", "einops", "typing-extensions"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["i2moe"]


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_everything_public_in_a_module_is_documented(module: str) -> None:
    for name, found in documented(module):
        value: Any = found.fget if isinstance(found, property) else found
        docstring = inspect.getdoc(value)
        assert docstring, name
        assert docstring.splitlines()[0].endswith((".", ":")), name
        if inspect.isfunction(value):
            parameters = [p for p in inspect.signature(value).parameters.values() if p.name != "self"]
            if len(parameters) > 1 and not name.endswith((".forward", ".replace", "Fill.fill_values")):
                assert "Args:" in docstring, name
        if "raise ValueError" in inspect.getsource(value):
            assert "Raises:" in docstring, name


@pytest.mark.parametrize("name", [name for name in i2moe.__all__ if name != "InteractionOutput"])
def test_what_is_exported_has_an_example(name: str) -> None:
    assert ">>>" in (inspect.getdoc(getattr(i2moe, name)) or "")
