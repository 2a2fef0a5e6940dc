"""Hidden states to ColBERT vectors."""

from flagtriton_server.colbert import TritonPythonModel as TritonPythonModel
