"""The identifiers that this server makes."""

import uuid_utils


def new_id() -> str:
    """A new UUIDv7 (RFC 9562) in its usual text form: unique everywhere, and sorting by the time it was made.

    Ids made by one process sort strictly in the order they were made, also within one millisecond.
    """
    return str(uuid_utils.uuid7())
