# SPDX-License-Identifier: Apache-2.0
"""Writes `kserve_fields.json`: the fields of KServe's resources, by the models in its Python package.

pip download --no-deps kserve==0.21.0 && python -m tests.golden.kserve_fields kserve-0.21.0-py3-none-any.whl
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from pathlib import Path

FIELDS = Path(__file__).with_suffix(".json")
ROOTS = ("V1alpha1ServingRuntime", "V1beta1InferenceService")


def fields_of(wheel: Path) -> dict[str, dict[str, str]]:
    """Return, for each class that the roots lead to, its JSON names and the types that stand behind them."""
    found: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        sources = [name for name in archive.namelist() if name.startswith("kserve/models/")]
        for name in sources:
            for node in ast.parse(archive.read(name)).body:
                if isinstance(node, ast.ClassDef):
                    found[node.name] = _fields(node)
    reached: dict[str, dict[str, str]] = {}
    left = list(ROOTS)
    while left:
        name = left.pop()
        if name in found and name not in reached:
            reached[name] = found[name]
            left += [type_.removeprefix("list[").removesuffix("]") for type_ in found[name].values()]
    return dict(sorted(reached.items()))


def _fields(node: ast.ClassDef) -> dict[str, str]:
    tables = {}
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id in ("openapi_types", "attribute_map"):
            tables[target.id] = ast.literal_eval(statement.value)
    names, types = tables.get("attribute_map", {}), tables.get("openapi_types", {})
    return {names[attribute]: types[attribute] for attribute in names}


def main() -> None:
    """Write the file."""
    wheel = Path(sys.argv[1])
    content = {"made_from": wheel.name, "fields": fields_of(wheel)}
    FIELDS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
