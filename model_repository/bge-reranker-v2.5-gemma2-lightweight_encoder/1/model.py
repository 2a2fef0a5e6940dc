"""Ragged token ids to hidden states at several layers."""

from flagtriton_server.layered_encoder import TritonPythonModel as TritonPythonModel
