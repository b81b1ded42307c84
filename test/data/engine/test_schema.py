"""Reading Prisma schemas."""

import pytest

from autogpt_server.data.engine.schema import SchemaError, parse_datamodel

SCHEMA = """
// generator ghost {
generator client {
  provider = "prisma-client-py" // in Python
}

datasource db {
  provider = "sqlite"
  url      = env("DATABASE_URL")
  directUrl = "file:x"
  relationMode = "foreignKeys"
}

/// A user { with odd words }
model User {
  id    String  @id @default("http://x//y") // the key
  role  Role?
  posts Post[]
  tags  String[]
  // commented String
  /// documented
  bytes Bytes?

  @@map("users")
}
model Post {
  id Int @id
}

enum Role {
  ADMIN  @map("the // admin")
  USER
  @@map("roles")
}
"""


def test_models_and_enums() -> None:
    datamodel = parse_datamodel(SCHEMA)
    assert datamodel.provider == "sqlite"
    assert list(datamodel.models) == ["User", "Post"]
    fields = datamodel.models["User"].fields
    assert {name: (f.type, f.is_list, f.is_required) for name, f in fields.items()} == {
        "id": ("String", False, True),
        "role": ("Role", False, False),
        "posts": ("Post", True, False),
        "tags": ("String", True, False),
        "bytes": ("Bytes", False, False),
    }
    assert {name: dict(enum.values) for name, enum in datamodel.enums.items()} == {
        "Role": {"ADMIN": "the // admin", "USER": "USER"}
    }


def test_compiler_text_has_neither_generators_nor_addresses() -> None:
    datamodel = parse_datamodel(SCHEMA)
    text = datamodel.compiler_text
    assert "generator" not in text
    assert "url" not in text.lower()
    assert 'relationMode = "foreignKeys"' in text
    assert '@default("http://x//y")' in text
    assert '@@map("users")' in text
    assert datamodel.fingerprint == parse_datamodel(SCHEMA).fingerprint
    assert datamodel.fingerprint != parse_datamodel(SCHEMA.replace("USER", "REGULAR")).fingerprint


@pytest.mark.parametrize("provider", ['provider = "postgresql"', ""])
def test_other_databases_are_refused(provider: str) -> None:
    with pytest.raises(SchemaError, match="serves SQLite"):
        parse_datamodel("datasource db {\n  %s\n}\n" % provider)  # noqa: UP031 - braces
