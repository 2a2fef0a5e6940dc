# SPDX-License-Identifier: Apache-2.0
"""`flagtriton.protocol.tensors`: the deployment's parameters, and the tensors that everything goes by."""

from __future__ import annotations

from flagtriton.protocol.deployment import Deployment
from flagtriton.protocol.parameters import read_parameters, write_parameters
from flagtriton.protocol.tensors import DENSE_VECS, TEXT


def test_a_deployment_is_read_back_from_its_parameters() -> None:
    deployment = Deployment(
        task="embed",
        model_class="encoder-only-base",
        checkpoint="intfloat/multilingual-e5-large-instruct",
        pooling_method="mean",
        max_length=512,
        precision="bf16",
        device="gpu:0,1",
        hidden_size=1024,
        revision="abc",
        trust_remote_code=True,
        query_instruction="",
        query_instruction_format="Instruct: {}\nQuery: {}",
    )
    assert read_parameters(Deployment, write_parameters(deployment)) == deployment


def test_texts_are_one_column_of_bytes() -> None:
    assert (TEXT.name, TEXT.datatype, TEXT.dims) == ("text", "BYTES", (1,))


def test_embeddings_are_rows_of_float32() -> None:
    assert (DENSE_VECS.name, DENSE_VECS.datatype, DENSE_VECS.dims) == ("dense_vecs", "FP32", (-1,))
