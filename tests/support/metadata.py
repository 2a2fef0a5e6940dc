# SPDX-License-Identifier: Apache-2.0
"""The package's metadata as setuptools builds it from pyproject.toml, and what its requirements bring."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution, PathDistribution, distribution, packages_distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

__all__ = ["OWN", "built_metadata", "installed_modules", "requirements"]

OWN = "flagtriton"


@cache
def built_metadata() -> Metadata:
    """Return the metadata that a wheel of this tree would have; what is installed here may be older."""
    with TemporaryDirectory() as folder:
        command = ["-c", "import setuptools; setuptools.setup()", "--quiet", "egg_info", "--egg-base", folder]
        subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=True)
        text = PathDistribution(Path(folder, f"{OWN}.egg-info")).read_text("PKG-INFO")
    assert text is not None
    return Metadata.from_email(text)


def requirements(extra: str = "") -> list[Requirement]:
    """Return what the package requires without an extra, or what an extra adds with the extras it includes."""
    found = []
    for requirement in built_metadata().requires_dist or ():
        marker = requirement.marker
        if (not extra and marker is None) or (extra and marker is not None and marker.evaluate({"extra": extra})):
            found.append(requirement)
    included = [name for each in found if each.name == OWN for name in sorted(each.extras)]
    return [each for each in found if each.name != OWN] + [each for name in included for each in requirements(name)]


def installed_modules(needed: Iterable[Requirement]) -> set[str]:
    """Return the top-level modules of requirements, and of all that they require, as installed here."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(needed)
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            waiting += _required_by(distribution(requirement.name), requirement.extras)
    names = {name for name, _ in seen}
    return {
        module
        for module, distributions in packages_distributions().items()
        if names & {canonicalize_name(each) for each in distributions}
    }


def _required_by(found: Distribution, extras: Iterable[str]) -> list[Requirement]:
    lines = [Requirement(line) for line in found.requires or ()]
    return [r for r in lines if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in ("", *extras))]
