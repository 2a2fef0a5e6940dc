"""Hidden states to lexical weights."""

from flagtriton_server.steps.sparse import TritonPythonModel as TritonPythonModel
