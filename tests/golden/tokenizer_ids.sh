#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes tokenizer_ids.json anew: the token ids of transformers 4 for the file layouts of tests/support/checkpoints/tokenizer_layouts.py.
#
#   bash tests/golden/tokenizer_ids.sh [ENVIRONMENT_FOLDER]   # made, or used again; by default a temporary one
#
# Published checkpoints were saved by transformers 4, whose tokenizer classes apply the flags of tokenizer_config.json
# to tokenizer.json. We run on transformers 5, which does not, so these ids are kept as a file.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
environment="${1:-}"
if [[ -z "$environment" ]]; then
    environment="$(mktemp -d)"
    trap 'rm -rf "$environment"' EXIT
fi
python3.11 -m venv "$environment"
"$environment/bin/python" -m pip install transformers==4.57.3 tokenizers==0.22.2 sentencepiece==0.2.3 protobuf "numpy<2"
"$environment/bin/python" tests/golden/tokenizer_ids.py
