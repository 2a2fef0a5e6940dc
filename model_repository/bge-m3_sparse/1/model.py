"""Hidden states to lexical weights."""

from flagtriton_server.sparse import TritonPythonModel as TritonPythonModel
