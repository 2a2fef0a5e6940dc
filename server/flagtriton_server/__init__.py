# SPDX-License-Identifier: Apache-2.0
"""The steps of a deployment, which run inside Triton's Python backend.

`model_repository/*/1/model.py` imports its `TritonPythonModel` from `flagtriton_server.steps`. Layers, from the top:
steps, heads and layerwise, loading, engines, then packing, tokenize, backend and sentence_transformers.
"""
