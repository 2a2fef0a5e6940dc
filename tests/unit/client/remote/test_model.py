# SPDX-License-Identifier: Apache-2.0
"""Finding a deployment, and what belongs to it."""

from __future__ import annotations

import pytest

from flagtriton.errors import DeploymentMismatchError, ModelNotServedError, ServerUnavailableError
from flagtriton.remote.connection import ConnectionSettings
from flagtriton.remote.model import ServedModel
from flagtriton.transport.base import ModelConfig
from flagtriton.transport.fake import FakeTransport
from tests.support.fake_models import NAME, answer_with_bytes, fake_m3, fake_server, find, model_config


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the waiting between tries; return the seconds that would have been waited."""
    seconds: list[float] = []
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: seconds.append)
    return seconds


class Warming(FakeTransport):
    """A server that is away for the first `failures` questions after a configuration."""

    failures = 2

    def model_config(self, model: str) -> ModelConfig:
        if self.failures:
            self.failures -= 1
            raise ServerUnavailableError("still loading")
        return super().model_config(model)


def test_what_is_found_says_what_it_serves() -> None:
    served = find(fake_server(pooling_method="mean", max_batch_size=8))
    assert (served.deployment.pooling_method, served.max_batch_size) == ("mean", 8)


def test_a_parameter_of_a_newer_server_is_passed_over() -> None:
    config = model_config()
    newer = ModelConfig(NAME, 8, {**config.parameters, "of_a_later_version": "1"})
    assert find(FakeTransport(answer_with_bytes, {NAME: newer})).deployment.task == "embed"


def test_a_missing_model_is_answered_with_the_public_ones() -> None:
    step = ModelConfig("e5-base_encoder", 8, {"device": "cpu"})
    configs = {"e5-base": model_config("e5-base"), "e5-base_encoder": step, "bge-m3": model_config("bge-m3")}
    fake = FakeTransport(answer_with_bytes, configs)
    with pytest.raises(
        ModelNotServedError, match="'bge-large-zh' is not served at fake://; served there: e5-base, bge-m3"
    ):
        find(fake, "bge-large-zh")


def test_a_missing_model_is_answered_with_how_to_add_it() -> None:
    with pytest.raises(
        ModelNotServedError, match="flagtriton add CHECKPOINT --name bge-large-zh --repository REPOSITORY"
    ):
        find(fake_server(), "bge-large-zh")


def test_a_deployment_of_another_name_from_the_same_checkpoint_is_pointed_out() -> None:
    configs = {"prod": model_config("prod", checkpoint="/hub/models--BAAI--bge-m3/snapshots/5617")}
    with pytest.raises(
        ModelNotServedError, match=r"served there: prod\. prod was added from a checkpoint of that name: pass this name"
    ):
        find(FakeTransport(answer_with_bytes, configs), "bge-m3")


def test_a_server_without_public_models_says_none() -> None:
    with pytest.raises(ModelNotServedError, match=r"served there: none\."):
        find(FakeTransport(answer_with_bytes, {}))


def test_a_private_step_is_refused_by_what_it_lacks() -> None:
    fake = FakeTransport(answer_with_bytes, {NAME: ModelConfig(NAME, 8, {"task": "embed"})})
    with pytest.raises(DeploymentMismatchError, match=r"not made by `flagtriton add`.*name the public ensemble"):
        find(fake)


def test_a_server_still_loading_is_asked_again(waits: list[float]) -> None:
    fake = Warming(answer_with_bytes, {NAME: model_config()})
    assert find(fake).name == NAME
    assert len(waits) == Warming.failures


def test_a_server_that_stays_away_is_given_up(waits: list[float]) -> None:
    fake = Warming(answer_with_bytes, {NAME: model_config()})
    with pytest.raises(ServerUnavailableError, match="still loading"):
        find(fake, retries=1)
    assert len(waits) == 1


def test_a_companion_is_another_model_over_the_same_connections() -> None:
    fake = fake_m3()
    served = find(fake, "bge-m3")
    scorer = served.companion("bge-m3_score")
    assert (scorer.name, scorer.transport, scorer.dispatcher) == ("bge-m3_score", fake, served.dispatcher)
    assert (served.name, scorer.deployment) == ("bge-m3", served.deployment)


def test_a_companion_has_a_batch_size_of_its_own() -> None:
    configs = {NAME: model_config(max_batch_size=64), "step": ModelConfig("step", 7, {})}
    served = find(FakeTransport(answer_with_bytes, configs))
    assert (served.max_batch_size, served.companion("step").max_batch_size) == (64, 7)


def test_a_missing_companion_is_answered_with_how_to_load_it() -> None:
    message = f"{NAME} is served at fake://, but {NAME}_score, which belongs to it, is not; load it, or serve the repos"
    with pytest.raises(ModelNotServedError, match=message):
        find(fake_server()).companion(f"{NAME}_score")


def test_a_missing_companion_leaves_the_deployment_usable() -> None:
    fake = fake_server()
    served = find(fake)
    with pytest.raises(ModelNotServedError):
        served.companion("nothing")
    assert not fake.closed


def test_a_companion_still_loading_is_asked_for_again(waits: list[float]) -> None:
    fake = Warming(answer_with_bytes, {NAME: model_config(), "step": ModelConfig("step", 7, {})})
    fake.failures = 0
    served = find(fake)
    fake.failures = 2
    assert served.companion("step").name == "step"
    assert len(waits) == 2


def test_closing_closes_the_transport() -> None:
    fake = fake_server()
    find(fake).close()
    assert fake.closed


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name is empty"):
        ServedModel.find("", ConnectionSettings(transport=fake_server()))


def test_a_plan_is_cut_by_rows_bytes_and_area() -> None:
    served = find(fake_server(max_batch_size=3))
    texts = ["ten bytes."] * 4
    assert [len(rows) for rows in served.plan(texts, max_rows=256)] == [3, 1]
    assert [len(rows) for rows in served.plan(texts, max_rows=256, max_area=20)] == [2, 2]
    assert [len(rows) for rows in served.plan(["ten bytes." * 3_000] * 4, max_rows=256)] == [2, 2]  # 65,536 bytes
    assert [len(rows) for rows in served.plan_pairs(texts, texts, max_rows=256)] == [3, 1]
    assert [len(rows) for rows in served.plan_pairs(texts, ["ten bytes." * 3_000] * 4, max_rows=256)] == [2, 2]
