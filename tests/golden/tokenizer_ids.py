# SPDX-License-Identifier: Apache-2.0
"""Writes tokenizer_ids.json: the token ids that transformers 4 gives for each tokenizer layout of the tests.

Run by tokenizer_ids.sh, in an environment of its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(_ROOT), str(_ROOT / "server")]

from tests.support.checkpoints.tokenizer_layouts import LAYOUTS, TEXTS, Layout  # noqa: E402 - found where the line above says

_PACKAGES = ("transformers", "tokenizers", "sentencepiece", "protobuf")


def ids(layout: Layout, folder: Path) -> dict[str, Any]:
    """Return the ids of all texts with and without special tokens, and the class that gave them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(layout.make(folder), trust_remote_code=layout.needs_code)
    return {
        "class": type(tokenizer).__name__,
        "ids": [tokenizer(text).input_ids for text in TEXTS],
        "bare_ids": [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS],
    }


def classes() -> dict[str, str]:
    """Return the tokenizer class of each model type that names none; a class in Python has no `Fast` at its end."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING

    found = {}
    for model_type, config in CONFIG_MAPPING.items():
        slow, fast = TOKENIZER_MAPPING.get(config, (None, None))
        named = getattr(config(), "tokenizer_class", None) if model_type in ("mt5", "umt5") else None
        if slow or fast:
            found[model_type] = f"{named}Fast" if named else (fast or slow).__name__
    return found


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: ids(layout, Path(folder) / name) for name, layout in LAYOUTS.items()}
    content = {"made_with": {package: version(package) for package in _PACKAGES}, "texts": TEXTS, "layouts": found}
    content["classes"] = classes()
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace('{"class"', '\n{"class"')
    (Path(__file__).parent / "tokenizer_ids.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
