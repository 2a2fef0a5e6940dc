# SPDX-License-Identifier: Apache-2.0
"""`flagtriton_server.engines.pseudo_moe`: a model's domain is chosen for some texts, and is what it was behind them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flagtriton_server.engines.base import LoadedEncoder, Precision
from flagtriton_server.engines.pseudo_moe import use_domain

FP32 = Precision("fp32", torch.float32, torch.float32)


class Router(nn.Module):
    """A layer with a choice of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.expert, self.chosen = 1.0, None, 0


SCALES = {"law": 2.0, "code": 3.0}


class Model(nn.Module):
    """One whose domains are those of `SCALES`; it says what it is set to, and what `forward` was told."""

    def __init__(self) -> None:
        super().__init__()
        self.domain = "general"
        self.router = Router()

    def set_domain(self, domain: str) -> None:
        self.domain = domain
        self.router.chosen, self.router.expert = 1, domain
        self.router.scale = SCALES[domain]

    def forward(self, input_ids: object, domain: str | None = None) -> object:
        return self.state(), domain

    def state(self) -> tuple[object, ...]:
        return self.domain, self.router.scale, self.router.expert, self.router.chosen


UNTOUCHED = ("general", 1.0, None, 0)


class WithoutDomains(nn.Module):
    """One that knows no domains."""

    def forward(self, input_ids: object) -> object:
        return input_ids


class WithNamedArguments(nn.Module):
    """One that takes whatever it is told, as transformers' models do."""

    def forward(self, input_ids: object, **named: Any) -> object:
        return named


class WithPositionalArguments(nn.Module):
    """One that takes more arguments, but none by name."""

    def forward(self, input_ids: object, *more: object) -> object:
        return more


def loaded(module: nn.Module) -> LoadedEncoder:
    return LoadedEncoder(module.eval(), torch.device("cpu"), FP32, 10, 0, 4)


def test_a_model_is_set_to_the_domain_and_told_it() -> None:
    model = Model()
    with use_domain(loaded(model), "law") as encoder:
        assert model.state() == ("law", 2.0, "law", 1)
        assert encoder.arguments == {"domain": "law"}
        assert encoder.module is model


def test_what_set_domain_changed_is_put_back_in_submodules_too() -> None:
    model = Model()
    with use_domain(loaded(model), "law"):
        pass
    assert model.state() == UNTOUCHED


def test_an_encoder_itself_is_told_nothing() -> None:
    encoder = loaded(Model())
    with use_domain(encoder, "law"):
        assert encoder.arguments == {}


def test_an_error_among_the_texts_leaves_the_model_as_it_was() -> None:
    model = Model()
    with pytest.raises(ZeroDivisionError), use_domain(loaded(model), "law"):
        raise ZeroDivisionError
    assert model.state() == UNTOUCHED


def test_a_domain_that_is_refused_halfway_leaves_the_model_as_it_was() -> None:
    model = Model()
    with pytest.raises(KeyError, match="cooking"), use_domain(loaded(model), "cooking"):
        pytest.fail("there is no such domain")
    assert model.state() == UNTOUCHED


def test_one_domain_after_another_is_chosen_from_the_models_own_state() -> None:
    model = Model()
    for domain, scale in SCALES.items():
        with use_domain(loaded(model), domain):
            assert model.state() == (domain, scale, domain, 1)
        assert model.state() == UNTOUCHED


def test_a_model_without_domains_takes_no_notice() -> None:
    encoder = loaded(WithoutDomains())
    with use_domain(encoder, "law") as same:
        assert same is encoder


def test_a_model_that_takes_any_named_argument_is_told_the_domain() -> None:
    with use_domain(loaded(WithNamedArguments()), "law") as encoder:
        assert encoder.module(1, **encoder.arguments) == {"domain": "law"}


def test_a_model_that_takes_no_argument_of_that_name_is_not_told() -> None:
    with use_domain(loaded(WithPositionalArguments()), "law") as encoder:
        assert encoder.arguments == {}


def test_a_model_that_is_only_set_is_not_told() -> None:
    class OnlySet(WithoutDomains):
        domain = "general"

        def set_domain(self, domain: str) -> None:
            self.domain = domain

    model = OnlySet()
    with use_domain(loaded(model), "law") as encoder:
        assert (model.domain, encoder.arguments) == ("law", {})


class WithExperts(nn.Module):
    """One that keeps its choice in every way there is to assign it."""

    on_the_class = None

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleDict({"general": nn.Identity(), "law": nn.ReLU()})
        self.expert = self.experts["general"]
        self.register_buffer("number", torch.tensor(0))
        self.active = ["general"]

    def set_domain(self, domain: str) -> None:
        self.on_the_class = domain
        self.expert = self.experts[domain]
        self.number = torch.tensor(1)
        self.active = [domain]
        self.new = domain

    def forward(self, input_ids: object) -> object:
        return input_ids


@pytest.mark.parametrize("kept_in", ["on_the_class", "number", "active", "new"])
def test_a_choice_is_put_back_whatever_it_is_kept_in(kept_in: str) -> None:
    model = WithExperts()
    before = str(getattr(model, kept_in, "not there"))
    with use_domain(loaded(model), "law"):
        assert str(getattr(model, kept_in)) != before
    assert str(getattr(model, kept_in, "not there")) == before


def test_an_expert_that_was_put_in_place_is_taken_out_again() -> None:
    model = WithExperts()
    with use_domain(loaded(model), "law"):
        assert isinstance(model.expert, nn.ReLU)
    assert isinstance(model.expert, nn.Identity)
