"""Text to ragged token ids."""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.tokenizer import TritonPythonModel as TritonPythonModel
