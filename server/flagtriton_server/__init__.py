# SPDX-License-Identifier: Apache-2.0
"""What runs inside Triton's Python backend: one module a step, glue over pure functions.

`model_repository/*/1/model.py` imports its `TritonPythonModel` from here. Only this package imports torch and
transformers, and only `triton_io` imports Triton's own `triton_python_backend_utils`.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    # Before torch is imported, which loads OpenMP. Its threads wait for the next operation of a pass without sleeping,
    # and by default go on so for 14 ms behind the last one, on cores that another deployment's pass could have. So many
    # turns, some 0.6 ms, last from one operation to the next: a lone query is as fast, and several deployments together
    # answer three times as much (docs/benchmarks.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "14000")
