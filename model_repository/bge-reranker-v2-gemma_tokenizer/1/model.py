"""Text to ragged token ids."""

from flagtriton_server.tokenizer import TritonPythonModel as TritonPythonModel
