"""Hidden states to dense vectors and lexical weights."""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.dense_sparse import TritonPythonModel as TritonPythonModel
