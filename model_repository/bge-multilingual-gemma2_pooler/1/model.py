"""Hidden states to embeddings."""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.pooler import TritonPythonModel as TritonPythonModel
