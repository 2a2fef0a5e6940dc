# SPDX-License-Identifier: Apache-2.0
"""One `TritonPythonModel` a module, named as the model's folder ends. Glue only."""
