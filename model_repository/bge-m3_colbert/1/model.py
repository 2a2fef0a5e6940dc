"""Hidden states to ColBERT vectors."""

from flagtriton_server.steps.colbert import TritonPythonModel as TritonPythonModel
