"""How block classes become the library: collected from modules, checked, and refused with a message that says what to fix."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, ModuleType

from autogpt_server.data.block import Block, MalformedBlock, check_block


def collect(modules: Iterable[ModuleType]) -> Mapping[str, Block]:
    """Block id -> one instance of each concrete block class defined in `modules`, in the order of definition.

    Classes that are abstract or whose name starts with an underscore are bases, not blocks. Raises `MalformedBlock` for a class that does not
    keep the contract and for two classes with the same id or name. All or nothing: there is no half-filled library.
    """
    by_id: dict[str, Block] = {}
    by_name: dict[str, type[Block]] = {}
    for cls in _block_classes(modules):
        check_block(cls)
        if (other := by_id.get(cls.id)) is not None:
            raise MalformedBlock(
                f"Block {_where(cls)} has the id {cls.id} of {_where(type(other))}; "
                f"give the newer one another: `python -c 'import uuid; print(uuid.uuid4())'`."
            )
        if (namesake := by_name.get(cls.name)) is not None:
            raise MalformedBlock(
                f"Block {_where(cls)} has the name {cls.name!r} of {_where(namesake)}; rename one of them."
            )
        try:
            by_id[cls.id] = cls()
        except TypeError as error:
            raise MalformedBlock(
                f"Block {_where(cls)}: its class must be callable without arguments ({error})."
            ) from error
        by_name[cls.name] = cls
    return MappingProxyType(by_id)


def _block_classes(modules: Iterable[ModuleType]) -> Iterator[type[Block]]:
    for module in modules:
        for member in vars(module).values():
            if not (inspect.isclass(member) and issubclass(member, Block)):
                continue
            if member.__module__ != module.__name__ or member.__name__.startswith("_") or inspect.isabstract(member):
                continue
            yield member


def _where(cls: type[Block]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
