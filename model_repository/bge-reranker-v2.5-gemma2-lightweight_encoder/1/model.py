"""Ragged token ids to hidden states at several layers."""

from flagtriton_server.steps.layerwise_encoder import TritonPythonModel as TritonPythonModel
