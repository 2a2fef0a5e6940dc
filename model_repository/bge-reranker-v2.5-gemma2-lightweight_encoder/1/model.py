"""Ragged token ids to hidden states at several layers."""

from flagtriton_server.backend.process_tuning import limit_openmp_spinning

limit_openmp_spinning()

from flagtriton_server.steps.layerwise_encoder import TritonPythonModel as TritonPythonModel
