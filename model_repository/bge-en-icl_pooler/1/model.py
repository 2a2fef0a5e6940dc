"""Hidden states to embeddings."""

from flagtriton_server.pooler import TritonPythonModel as TritonPythonModel
