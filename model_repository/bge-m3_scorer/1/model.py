"""Hidden states of pairs to scores."""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.scorer import TritonPythonModel as TritonPythonModel
