"""Credentials as nodes carry them: an object in a secret pin, read when the block runs and shown nowhere."""

from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic

from autogpt_server.data.block import BlockError, SchemaField

Model = TypeVar("Model", bound="Credentials")


class Credentials(pydantic.BaseModel):
    """Base of what a service needs to know; what it does not know (an id, a title) is not looked at."""

    model_config = pydantic.ConfigDict(
        extra="ignore", hide_input_in_errors=True, str_strip_whitespace=True, frozen=True
    )


class ApiKeyCredentials(Credentials):
    """A key, the provider it is for, and where that provider is, if not at its usual address."""

    provider: str | None = None
    api_key: pydantic.SecretStr | None = None
    base_url: str | None = None


def CredentialsField(  # noqa: N802  (reads as a field type in a class body, like SchemaField)
    default: Any = ..., *, providers: Sequence[str], types: Sequence[str], description: str
) -> Any:
    """A secret pin for credentials of one of these providers; editors offer fitting ones by the two names in the schema."""
    return SchemaField(
        default,
        description=description,
        secret=True,
        json_schema_extra={"credentials_provider": list(providers), "credentials_types": list(types)},
    )


def read_credentials(model: type[Model], value: Any, service: str) -> Model:
    """`value` as `model`; `BlockError` that names what is missing, and never what came."""
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, problem["loc"])) or "an object" for problem in error.errors()}))
        raise BlockError(f"The credentials for {service} lack {fields}.") from None
