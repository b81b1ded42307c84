"""The root of all errors."""

import pytest

from autogpt_server.utils.errors import AutoGPTServerError, error_class, remake_error


class NoTeaError(AutoGPTServerError):
    """There is no
    tea.
    """  # noqa: D205 - a sentence may need two lines

    retryable = True


class NoMilkError(AutoGPTServerError):
    """There is no milk."""

    code = "no_milk_today"

    def __init__(self, liters: float) -> None:
        super().__init__(f"{liters} liters are missing", liters=liters)

    @property
    def liters(self) -> float:
        return float(self.details["liters"])


def test_the_docstring_is_the_default_message() -> None:
    assert str(NoTeaError()) == "There is no tea."
    assert str(NoTeaError("none at all")) == "none at all"


def test_the_code_follows_from_the_name_unless_given() -> None:
    assert NoTeaError.code == "no_tea_error"
    assert error_class("no_milk_today") is NoMilkError
    assert error_class("never heard of") is None


def test_an_error_is_made_again_from_what_travels() -> None:
    error = NoMilkError(1.5)
    again = remake_error(error.code, str(error), error.details)
    assert isinstance(again, NoMilkError)
    assert str(again) == "1.5 liters are missing"
    assert again.liters == 1.5
    assert remake_error("never_heard_of", "x", {}) is None


def test_a_code_is_given_once() -> None:
    with pytest.raises(TypeError, match=r"'no_milk_today'.*is taken by.*NoMilkError"):
        type("OtherError", (AutoGPTServerError,), {"code": "no_milk_today", "__doc__": "x", "__module__": "elsewhere"})
    assert error_class("no_milk_today") is NoMilkError
