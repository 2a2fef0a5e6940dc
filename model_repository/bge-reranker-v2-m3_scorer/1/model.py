"""Hidden states of pairs to a reranker's scores."""

from flagtriton_server.classifier import TritonPythonModel as TritonPythonModel
