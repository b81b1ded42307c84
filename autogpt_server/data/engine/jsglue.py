"""Stands in for JavaScript around the query compiler's WebAssembly.

The compiler was built with wasm-bindgen, so it keeps no values of its own: every object and string of a plan is made by calling
back one of the functions below, which do what their JavaScript namesakes do
(``runtime/query_compiler_small_bg.sqlite.mjs`` of the npm package ``@prisma/client`` 7.10.0). Values that JavaScript and Rust
share are dicts, lists, strings, numbers and booleans of Python, held in a table of references.
"""

import struct
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import wasmtime

from autogpt_server.data.engine.errors import CompilerError

_NOT_A_BOOLEAN: Final = 0xFFFFFF
"""What wasm-bindgen's ``boolean_get`` answers for a value that is no boolean."""


class Sentinel:
    """JavaScript's ``undefined`` and ``null``: the compiler tells them apart, and both from a missing reference."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


UNDEFINED: Final = Sentinel("undefined")
NULL: Final = Sentinel("null")


class JsError:
    """A JavaScript ``Error`` that the compiler made, to throw it or to return it."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __repr__(self) -> str:
        return self.message


class JsGlue:
    """The memory and the references of one instance. `attach` comes before anything else."""

    def __init__(self, store: wasmtime.Store) -> None:
        self._store = store
        self._exports: Any = None
        self.panic: str | None = None
        """What the compiler said when it gave up."""

    def attach(self, instance: wasmtime.Instance) -> None:
        """Work on the memory of ``instance``."""
        self._exports = instance.exports(self._store)
        self.call("__wbindgen_start")

    def call(self, function: str, *args: object) -> Any:
        """Call an exported function."""
        return cast("Callable[..., Any]", self._exports[function])(self._store, *args)

    # --- memory ---------------------------------------------------------------------------------------------------

    @property
    def _memory(self) -> wasmtime.Memory:
        return cast(wasmtime.Memory, self._exports["memory"])

    def text(self, pointer: int, length: int) -> str:
        """The string at an address."""
        pointer &= 0xFFFFFFFF
        return bytes(self._memory.read(self._store, pointer, pointer + (length & 0xFFFFFFFF))).decode()

    def allocate(self, data: bytes) -> int:
        """The address of a copy of ``data``; Rust frees it."""
        pointer = self.call("__wbindgen_malloc", len(data), 1) & 0xFFFFFFFF
        self._memory.write(self._store, data, pointer)
        return pointer

    def write(self, pointer: int, layout: str, *values: float) -> None:
        """Write numbers, packed as `struct` says."""
        self._memory.write(self._store, struct.pack(layout, *values), pointer & 0xFFFFFFFF)

    def write_text(self, pointer: int, text: str | None) -> None:
        """Answer a string where Rust expects its address and length; (0, 0) says that there is none."""
        encoded = b"" if text is None else text.encode()
        self.write(pointer, "<II", 0 if text is None else self.allocate(encoded), len(encoded))

    # --- references -----------------------------------------------------------------------------------------------

    @property
    def _references(self) -> wasmtime.Table:
        return cast(wasmtime.Table, self._exports["__wbindgen_externrefs"])

    def take(self, index: int) -> object:
        """Remove and return a reference."""
        value: object = self._references.get(self._store, index)
        self.call("__externref_table_dealloc", index)
        return value.value if isinstance(value, wasmtime.Val) else value

    def start_references(self) -> None:
        """Write the constants that every module of wasm-bindgen expects in its table."""
        first = self._references.grow(self._store, 4, wasmtime.Val.externref(UNDEFINED))
        constants = ((0, UNDEFINED), (first, UNDEFINED), (first + 1, NULL), (first + 2, True), (first + 3, False))
        for index, value in constants:
            self._references.set(self._store, index, wasmtime.Val.externref(value))

    # --- functions that work on memory ----------------------------------------------------------------------------

    def error(self, pointer: int, length: int) -> JsError:
        """``Error(message)``"""
        return JsError(self.text(pointer, length))

    def throw(self, pointer: int, length: int) -> None:
        """``throw new Error(message)``"""
        raise CompilerError(self.text(pointer, length))

    def remember_panic(self, pointer: int, length: int) -> None:
        """Called with the message of a Rust panic, just before the instance traps."""
        self.panic = self.text(pointer, length)

    def number_get(self, pointer: int, value: Any) -> None:
        """Whether ``value`` is a number, and which."""
        number = float(value) if _is_number(value) else None
        self.write(pointer, "<Iid", number is not None, 0, number or 0.0)

    def string_get(self, pointer: int, value: object) -> None:
        """``value`` if it is a string."""
        self.write_text(pointer, value if isinstance(value, str) else None)

    def string(self, pointer: int, value: object) -> None:
        """``String(value)``"""
        self.write_text(pointer, str(value))

    def debug_string(self, pointer: int, value: object) -> None:
        """``value`` for a message."""
        self.write_text(pointer, repr(value))

    def copy_bytes(self, pointer: int, _length: int, data: bytes) -> None:
        """``memory.set(data)``"""
        self._memory.write(self._store, data, pointer & 0xFFFFFFFF)


def _from_python(value: object) -> object:
    return NULL if value is None else value


def _to_python(value: object) -> object:
    """A value that becomes part of a plan; the compiler never reads it back."""
    return None if value is NULL or value is UNDEFINED else value


def _set_property(target: dict[object, object], key: object, value: object) -> None:
    target[key] = _to_python(value)


def _set_entry(target: dict[object, object], key: object, value: object) -> object:
    """Of a ``Map``, which returns itself."""
    target[key] = _to_python(value)
    return target


def _set_item(target: list[object], index: int, value: object) -> None:
    target.extend([None] * (index + 1 - len(target)))
    target[index] = _to_python(value)


def _get_property(source: object, key: str) -> object:
    if not isinstance(source, dict):
        return UNDEFINED
    return _from_python(cast("dict[str, object]", source).get(key, UNDEFINED))


def _get_item(source: list[object], index: int) -> object:
    return _from_python(source[index])


def _entries(source: dict[str, object]) -> list[list[object]]:
    return [[key, _from_python(value)] for key, value in source.items()]


def _contains(key: object, source: dict[object, object]) -> int:
    return int(key in source)


def _number(value: float) -> float:
    """A JavaScript number. Whole ones become ``int``, as JSON would write them."""
    return int(value) if value.is_integer() else value


def _identity(value: int) -> int:
    return value


def _unsigned(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


def _milliseconds(moment: float) -> float:
    return moment * 1000.0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_safe_integer(value: Any) -> int:
    return int(_is_number(value) and float(value).is_integer() and abs(value) < 2**53)


def _is_a(*types: type) -> Callable[[object], int]:
    return lambda value: int(isinstance(value, types))


def _is_undefined(value: object) -> int:
    return int(value is UNDEFINED)


def _boolean_get(value: object) -> int:
    return int(value) if isinstance(value, bool) else _NOT_A_BOOLEAN


def _loose_equal(left: object, right: object) -> int:
    absent = (NULL, UNDEFINED)
    if left in absent or right in absent:
        return int(left in absent and right in absent)
    return int(left == right)


Import = Callable[..., object]


def _pure(function: Callable[..., object]) -> Import:
    """A function that needs no memory."""

    def without_glue(_: JsGlue, *args: object) -> object:
        return function(*args)

    return without_glue


IMPORTS: Final[Mapping[str, Import]] = MappingProxyType(
    {
        "__wbindgen_init_externref_table": JsGlue.start_references,
        # making values
        "__wbg_new_1acc0b6eea89d040": _pure(dict),  # new Object
        "__wbg_new_68651c719dcda04e": _pure(dict),  # new Map
        "__wbg_new_e17d9f43105b08be": _pure(list),
        "__wbg_new_5a79be3ab53b8aa5": _pure(bytes),
        "__wbg_new_0_f9740686d739025c": _pure(time.time),
        "__wbg_Error_e83987f665cf5504": JsGlue.error,
        "__wbindgen_cast_2241b6af4c4b2941": JsGlue.text,
        "__wbindgen_cast_d6cd19b81560fd6e": _pure(_number),
        "__wbindgen_cast_9ae0607507abb057": _pure(_identity),  # i64 -> BigInt
        "__wbindgen_cast_4625c577ab2ec9ee": _pure(_unsigned),  # u64 -> BigInt
        # filling them
        "__wbg_set_3f1d0b984ed272ed": _pure(_set_property),
        "__wbg_set_907fb406c34a251d": _pure(_set_entry),
        "__wbg_set_c213c871859d6500": _pure(_set_item),
        # reading them
        "__wbg_get_with_ref_key_1dc361bd10053bfe": _pure(_get_property),
        "__wbg_get_7bed016f185add81": _pure(_get_item),
        "__wbg_entries_e171b586f8f6bdbf": _pure(_entries),
        "__wbg_length_cdd215e10d9dd507": _pure(len),
        "__wbg_length_69bca3cb64fc8748": _pure(len),
        "__wbg_getTime_14776bfb48a1bff9": _pure(_milliseconds),
        "__wbg_prototypesetcall_2a6620b6922694b2": JsGlue.copy_bytes,
        "__wbg_Number_bb48ca12f395cd08": _pure(float),
        "__wbg_String_8f0eb39a4a4c2f66": JsGlue.string,
        "__wbg___wbindgen_number_get_a20bf9b85341449d": JsGlue.number_get,
        "__wbg___wbindgen_string_get_e4f06c90489ad01b": JsGlue.string_get,
        "__wbg___wbindgen_boolean_get_6d5a1ee65bab5f68": _pure(_boolean_get),
        "__wbg___wbindgen_debug_string_df47ffb5e35e6763": JsGlue.debug_string,
        # asking what they are
        "__wbg_isSafeInteger_d216eda7911dde36": _pure(_is_safe_integer),
        "__wbg_instanceof_Uint8Array_20c8e73002f7af98": _pure(_is_a(bytes)),
        "__wbg_instanceof_ArrayBuffer_70beb1189ca63b38": _pure(_is_a()),
        "__wbg___wbindgen_in_bb933bd9e1b3bc0f": _pure(_contains),
        "__wbg___wbindgen_is_object_c818261d21f283a4": _pure(_is_a(dict, list, bytes)),
        "__wbg___wbindgen_is_string_fbb76cb2940daafd": _pure(_is_a(str)),
        "__wbg___wbindgen_is_undefined_2d472862bd29a478": _pure(_is_undefined),
        "__wbg___wbindgen_jsval_loose_eq_b664b38a2f582147": _pure(_loose_equal),
        # failing
        "__wbg___wbindgen_throw_b855445ff6a94295": JsGlue.throw,
        "__wbg_set_message_82ae475bb413aa5c": JsGlue.remember_panic,
    }
)
"""The functions that the compiler of ``@prisma/client`` 7.10.0 calls back. wasm-bindgen puts a hash into each name, so they
belong to that version."""
