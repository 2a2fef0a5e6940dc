# SPDX-License-Identifier: Apache-2.0
"""Process pools and life cycle, as FlagEmbedding names them."""

from __future__ import annotations

from typing import Any

import pytest

from flagtriton import FlagModel
from tests.support.fake_models import embedder, fake_server, vector


def test_leaving_the_context_closes_the_connections() -> None:
    fake = fake_server()
    with embedder(fake) as model:
        model.encode("a")
        assert not fake.closed
    assert fake.closed


def test_the_object_is_usable_after_stop_self_pool() -> None:
    model = embedder(fake_server(max_batch_size=1))
    model.encode(["a", "bb"])
    model.stop_self_pool()
    assert model.encode(["a", "bb"]).tolist() == [vector("a"), vector("bb")]
    model.close()


@pytest.mark.parametrize(
    ("devices", "names"), [(None, ["cpu"]), ("cpu", ["cpu"]), (1, ["cuda:1"]), ([0, 1], ["cuda:0", "cuda:1"])]
)
def test_get_target_devices_names_them_as_flagembedding_does(devices: Any, names: list[str]) -> None:
    assert FlagModel.get_target_devices(devices) == names


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("devices", ["cpu", "cuda:1", ["cpu", "cpu"], ["cuda:0"]])
def test_the_reference_names_devices_the_same_way(devices: Any) -> None:
    from FlagEmbedding import FlagModel as Reference

    assert FlagModel.get_target_devices(devices) == Reference.get_target_devices(devices)


def test_a_pool_is_empty_and_can_be_stopped() -> None:
    model = embedder(fake_server())
    pool = model.start_multi_process_pool()
    assert pool == {"input": [], "output": [], "processes": []}
    model.stop_multi_process_pool(pool)
    assert model.encode("ab").tolist() == vector("ab")


def test_encoding_in_a_pool_is_encoding() -> None:
    model = embedder(fake_server())
    assert model.encode_multi_process(["ab"], model.start_multi_process_pool()).tolist() == [vector("ab")]


def test_no_pool_stands_on_the_object() -> None:
    assert embedder(fake_server()).pool is None


def test_stop_self_pool_keeps_the_connections() -> None:
    fake = fake_server()
    embedder(fake).stop_self_pool()
    assert not fake.closed


def test_leaving_the_context_by_an_error_closes_the_connections_and_lets_it_pass() -> None:
    fake = fake_server()
    with pytest.raises(KeyError), embedder(fake):
        raise KeyError
    assert fake.closed


def test_the_context_is_the_object() -> None:
    model = embedder(fake_server())
    with model as entered:
        assert entered is model


@pytest.mark.parametrize("devices", [[], 1.5, ["cpu", 0]])
def test_devices_of_another_kind_are_refused(devices: Any) -> None:
    with pytest.raises(ValueError, match="devices should be a string or an integer or a list of"):
        FlagModel.get_target_devices(devices)
