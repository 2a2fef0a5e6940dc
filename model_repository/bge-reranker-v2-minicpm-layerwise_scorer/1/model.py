"""Hidden states of pairs to a reranker's scores."""

from flagtriton_server.steps.reranker_scorer import TritonPythonModel as TritonPythonModel
