"""Hidden states of pairs to scores."""

from flagtriton_server.steps.scorer import TritonPythonModel as TritonPythonModel
