#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs a library that `flagtriton bench --peer NAME` compares with, into an environment of its own:
#   tools/install_peer.sh infinity
#   tools/install_peer.sh flagembedding
# torch comes first and alone, so that whichever build pip is configured for is the one that is used.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  infinity) packages=('infinity-emb[server,torch]==0.0.78') ;;
  flagembedding) packages=('FlagEmbedding==1.4.2' 'transformers==5.23.0' 'numpy<2' 'pyarrow<26') ;;
  sentence-transformers) packages=('sentence-transformers==6.2.0' 'numpy<2') ;;
  *) echo "usage: $0 infinity|flagembedding|sentence-transformers" >&2; exit 2 ;;
esac
folder="${FLAGTRITON_PEERS:-.peers}/$1"
"${PYTHON:-python3}" -m venv --clear "$folder"
"$folder/bin/python" -m pip --disable-pip-version-check install torch==2.13.0
"$folder/bin/python" -m pip --disable-pip-version-check install "${packages[@]}"
echo "installed $1 into $folder"
