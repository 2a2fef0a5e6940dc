"""Hidden states of pairs to a reranker's scores."""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.reranker_scorer import TritonPythonModel as TritonPythonModel
