# SPDX-License-Identifier: Apache-2.0
"""What runs inside Triton's Python backend: one module a step, glue over pure functions.

`model_repository/*/1/model.py` imports its `TritonPythonModel` from here. Only this package imports torch and
transformers, and only `triton_io` imports Triton's own `triton_python_backend_utils`.
"""
