"""Ragged token ids to hidden states."""

from flagtriton_server.steps.encoder import TritonPythonModel as TritonPythonModel
