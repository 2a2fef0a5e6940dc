"""Hidden states to embeddings."""

from flagtriton_server.steps.pooler import TritonPythonModel as TritonPythonModel
