#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes layerwise.json, lightweight.json and lightweight_sep2.json anew, in an environment of the reference's own.
#
#   bash tests/golden/make.sh [ENVIRONMENT_FOLDER]   # the folder is made, or used again; by default a temporary one
#
# FlagEmbedding 1.4.2 brings its own model classes for these two rerankers, and no release of transformers that they
# run on runs the rest: the lightweight one runs on 4.46 and 4.47, the layerwise one up to 4.53, most embedders from
# 4.56 on, and we run on 5. So their scores are kept as files, and all other parity tests call the reference itself.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
environment="${1:-}"
if [[ -z "$environment" ]]; then
    environment="$(mktemp -d)"
    trap 'rm -rf "$environment"' EXIT
fi
python3.11 -m venv "$environment"
python="$environment/bin/python"
"$python" -m pip install torch==2.13.0  # alone and first, so that nothing below picks another
"$python" -m pip install transformers==4.47.1 FlagEmbedding==1.4.2 "numpy<2" "pyarrow<26" sentencepiece
"$python" tests/golden/compute.py tests/golden
