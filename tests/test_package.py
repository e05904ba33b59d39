"""What is shipped: names, imports, types and documentation."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import i2moe

ROOT = Path(__file__).parent.parent
CORE = ("_common", "losses", "missing", "moe", "perturbations")
"""The rooms that `import i2moe` brings."""
PACKAGES = (*CORE, "backbones", "categorization", "interpretation", "mmoe", "pid")
MODULES = [
    importlib.import_module(module.name)
    for package in PACKAGES
    for module in pkgutil.walk_packages(i2moe.__path__, "i2moe.")
    if module.name.split(".")[1] == package and not module.ispkg
]
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
    "moe.weights",
    "perturbations",
]


def run(code: str) -> str:
    """Run Python apart, where nothing is imported yet."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def documented() -> list[tuple[str, Any]]:
    """Every public function, class and method."""
    found: dict[str, Any] = {}
    for name in PUBLIC_MODULES:
        module = importlib.import_module(f"i2moe.{name}")
        for exported in module.__all__:
            value = getattr(module, exported)
            if not inspect.isclass(value) and not inspect.isfunction(value):
                continue
            found[f"{value.__module__}.{exported}"] = value
            for method, function in vars(value).items() if inspect.isclass(value) else ():
                if not method.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                    found[f"{value.__module__}.{exported}.{method}"] = function
    return sorted(found.items())


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
        "StaticReweighter",
        "calibrate",
        "categorize",
        "explain",
        "interactions",
    ]
    assert all(hasattr(i2moe, name) for name in i2moe.__all__)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_module_says_what_it_is_and_exports(module: Any) -> None:
    assert module.__doc__
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert all(hasattr(module, name) for name in module.__all__)
    source = Path(module.__file__).read_text()
    assert len(source.splitlines()) <= 400


def test_import_brings_the_core_alone() -> None:
    code = (
        "import torch, einops, typing_extensions, sys; before = set(sys.modules); import i2moe; "
        "print(*sorted(set(sys.modules) - before))"
    )
    imported = {f"{name}.".split(".")[1] for name in run(code).split() if name.startswith("i2moe")}
    assert imported == {"", *CORE}


def test_import_is_fast() -> None:
    code = "import torch, time; start = time.process_time(); import i2moe; print(time.process_time() - start)"
    assert any(float(run(code)) < 0.06 for _ in range(5))  # CPU time, the best of some: the machine may be busy


def test_import_warns_of_nothing_and_leaves_the_random_state() -> None:
    code = "import torch; a = torch.get_rng_state(); import i2moe; assert torch.equal(a, torch.get_rng_state())"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


def test_types_are_shipped() -> None:
    assert resources.files("i2moe").joinpath("py.typed").is_file()


def test_dependencies_and_contents() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = [re.split(r"[^\w-]", dependency)[0] for dependency in project["project"]["dependencies"]]
    assert names == ["torch", "einops", "typing-extensions"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["i2moe"]


@pytest.mark.parametrize(("name", "value"), documented(), ids=[name for name, _ in documented()])
def test_what_is_public_is_documented(name: str, value: Any) -> None:
    value = value.fget if isinstance(value, property) else value
    docstring = inspect.getdoc(value)
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))
    if inspect.isfunction(value):
        parameters = [p for p in inspect.signature(value).parameters.values() if p.name != "self"]
        if len(parameters) > 1 and not name.endswith((".forward", ".replace", "Fill.fill_values")):
            assert "Args:" in docstring
    if "raise ValueError" in inspect.getsource(value):
        assert "Raises:" in docstring


@pytest.mark.parametrize("name", [name for name in i2moe.__all__ if name != "InteractionOutput"])
def test_what_is_exported_has_an_example(name: str) -> None:
    assert ">>>" in (inspect.getdoc(getattr(i2moe, name)) or "")
