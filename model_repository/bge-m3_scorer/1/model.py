"""Hidden states of pairs to scores."""

from flagtriton_server.scorer import TritonPythonModel as TritonPythonModel
