"""Hidden states to lexical weights."""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.sparse import TritonPythonModel as TritonPythonModel
