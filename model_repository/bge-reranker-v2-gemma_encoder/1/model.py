"""Ragged token ids to hidden states."""

from flagtriton_server.encoder import TritonPythonModel as TritonPythonModel
