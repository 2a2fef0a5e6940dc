# SPDX-License-Identifier: Apache-2.0
"""One `TritonPythonModel` in each module, whose name is the ending of the model's folder. Glue only."""
