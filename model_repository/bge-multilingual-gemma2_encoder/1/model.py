"""Ragged token ids to hidden states."""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.encoder import TritonPythonModel as TritonPythonModel
