"""Hidden states to ColBERT vectors."""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.colbert import TritonPythonModel as TritonPythonModel
