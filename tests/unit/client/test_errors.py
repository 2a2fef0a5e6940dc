# SPDX-License-Identifier: Apache-2.0
"""The exception tree."""

from __future__ import annotations

import inspect

import pytest

import flagtriton
from flagtriton import errors

BUILT_IN = {
    errors.DeploymentMismatchError: ValueError,
    errors.InvalidRequestError: ValueError,
    errors.ModelNotServedError: LookupError,
    errors.AccessDeniedError: PermissionError,
    errors.ServerUnavailableError: ConnectionError,
    errors.RequestTimeoutError: TimeoutError,
    errors.ServerError: RuntimeError,
    errors.ClosedError: RuntimeError,
    errors.ForkedProcessError: RuntimeError,
    errors.RequestTooLargeError: ValueError,
    errors.WrongServerError: ConnectionError,
    errors.MissingExtraError: ImportError,
}


@pytest.mark.parametrize(("kind", "built_in"), BUILT_IN.items())
def test_each_error_is_also_its_built_in_one(kind: type[Exception], built_in: type[Exception]) -> None:
    assert issubclass(kind, built_in)


def test_a_model_that_is_not_served_is_the_value_error_of_flagembeddings_factory_too() -> None:
    assert issubclass(errors.ModelNotServedError, ValueError)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_each_error_is_caught_by_the_root(kind: type[Exception]) -> None:
    with pytest.raises(errors.FlagTritonError, match="what failed"):
        raise kind("what failed")


def test_no_error_of_the_module_is_missing_above() -> None:
    defined = {value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)}
    assert defined - {errors.FlagTritonError, errors.DeploymentWarning} == set(BUILT_IN)


@pytest.mark.parametrize("name", errors.__all__)
def test_each_error_is_importable_from_the_package(name: str) -> None:
    assert getattr(flagtriton, name) is getattr(errors, name)


@pytest.mark.parametrize("name", errors.__all__)
def test_the_modules_docstring_draws_each_error(name: str) -> None:
    assert name in str(errors.__doc__)


def test_the_warning_is_one_that_python_shows_by_default() -> None:
    assert issubclass(errors.DeploymentWarning, UserWarning)
