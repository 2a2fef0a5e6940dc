"""Text to ragged token ids."""

from flagtriton_server.steps.tokenizer import TritonPythonModel as TritonPythonModel
