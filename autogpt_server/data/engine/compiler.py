"""Prisma's query compiler, run in this process.

The compiler is a pure function that Prisma publishes as WebAssembly in the npm package ``@prisma/client``: a query in
the JSON protocol in, a query plan (SQL with parameters, and a small tree of steps) out. It was built with wasm-bindgen,
so it keeps no values of its own: every object and string of a plan is made by calling back one of the functions below,
which stand in for their JavaScript namesakes (``runtime/query_compiler_small_bg.sqlite.mjs`` of the package says what
each one does). Their names carry a hash and belong to one version of the package: see `IMPORTS`.

Of the package's two builds, ``small`` and ``fast``, this takes ``small``. Measured on two cores: precompiled module 5.5 MB
instead of 9.3, precompiling 1.1 s instead of 3.1 (peak 95 MB instead of 165), and a plan takes no longer, since the
calls back dominate (1.7 ms for find_unique, 3.6 for create, 6 for two levels of include).
"""

import json
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import wasmtime

from autogpt_server.data.engine.build import load_module
from autogpt_server.data.engine.errors import CompilerError, EngineNotBuiltError, QueryError
from autogpt_server.data.engine.files import QUERY_COMPILER_VERSION
from autogpt_server.data.engine.schema import DataModel

_NOT_A_BOOLEAN: Final = 0xFFFFFF
"""What wasm-bindgen's ``boolean_get`` answers for a value that is no boolean."""

_COMPILES_PER_COLLECTION: Final = 32
"""Plans between two collections of the references that the WebAssembly store has dropped."""


class _Sentinel:
    """JavaScript's ``undefined`` and ``null``: WebAssembly tells them apart, and from a missing reference."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


_UNDEFINED: Final = _Sentinel("undefined")
_NULL: Final = _Sentinel("null")


class _JsError:
    """A JavaScript ``Error`` made by the compiler."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __repr__(self) -> str:
        return self.message


def _from_python(value: object) -> object:
    return _NULL if value is None else value


def _to_python(value: object) -> object:
    """A value that becomes part of a plan, which is never read back by the compiler."""
    return None if value is _NULL or value is _UNDEFINED else value


class QueryCompiler:
    """One instance of the compiler for one schema. Use it from one thread at a time.

    Raises:
        EngineNotBuiltError: `make generate` has not been run, or was for another version.
    """

    def __init__(self, datamodel: DataModel, *, build_dir: Path | None = None) -> None:
        engine, module = load_module(build_dir)
        self._store = wasmtime.Store(engine)
        self._panic: str | None = None
        self._compiled = 0
        imports = [self._import(imported) for imported in module.imports]
        instance = wasmtime.Instance(self._store, module, imports)
        self._exports = instance.exports(self._store)
        self._memory = cast(wasmtime.Memory, self._exports["memory"])
        self._table = cast(wasmtime.Table, self._exports["__wbindgen_externrefs"])
        self._function("__wbindgen_start")(self._store)
        options = {
            "datamodel": datamodel.compiler_text,
            "provider": datamodel.provider,
            "connectionInfo": {"supportsRelationJoins": False},
        }
        self._pointer, error, failed = self._call("querycompiler_new", options)
        if failed:
            raise CompilerError(f"the query compiler refused the schema: {self._describe(self._take(error))}")

    def compile(self, query: str) -> dict[str, Any]:
        """The plan of ``query``, a JSON protocol request.

        Raises:
            QueryError: the query does not fit the schema.
            CompilerError: the compiler itself failed; this instance is of no use any more.
        """
        encoded = query.encode()
        pointer = self._allocate(encoded)
        plan, error, failed = self._call("querycompiler_compile", self._pointer, pointer, len(encoded))
        self._compiled += 1
        if self._compiled % _COMPILES_PER_COLLECTION == 0:
            self._store.gc()
        if failed:
            raise self._query_error(self._take(error))
        return cast("dict[str, Any]", self._take(plan))

    def _call(self, name: str, *args: object) -> Any:
        """Call the compiler. If anything goes wrong on the way (a panic, a bug in the glue below), it is of no use any more."""
        try:
            return self._function(name)(self._store, *args)
        except CompilerError:
            raise
        except Exception as error:
            raise CompilerError(f"the query compiler failed: {self._panic or error}") from error

    def _query_error(self, error: object) -> QueryError:
        """What the compiler threw: ``{code, message, meta}`` for errors meant for users, else a JavaScript error."""
        if isinstance(error, dict):
            thrown = cast("dict[str, Any]", error)
            meta = cast("dict[str, Any]", thrown.get("meta") or {})
            return QueryError(str(thrown.get("code") or "P2009"), str(thrown.get("message")), meta)
        return QueryError("P2009", f"the query does not fit the schema: {self._describe(error)}")

    @staticmethod
    def _describe(error: object) -> str:
        return error.message if isinstance(error, _JsError) else json.dumps(error, default=repr, ensure_ascii=False)

    # --- WebAssembly memory ---------------------------------------------------------------------------------------

    def _function(self, name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", self._exports[name])

    def _text(self, pointer: int, length: int) -> str:
        pointer &= 0xFFFFFFFF
        return bytes(self._memory.read(self._store, pointer, pointer + (length & 0xFFFFFFFF))).decode()

    def _allocate(self, data: bytes) -> int:
        pointer = self._function("__wbindgen_malloc")(self._store, len(data), 1) & 0xFFFFFFFF
        self._memory.write(self._store, data, pointer)
        return pointer

    def _write(self, pointer: int, layout: str, *values: float) -> None:
        self._memory.write(self._store, struct.pack(layout, *values), pointer & 0xFFFFFFFF)

    def _write_text(self, pointer: int, text: str | None) -> None:
        """Answer a string where Rust expects ``(pointer, length)``; (0, 0) says that there is none."""
        if text is None:
            self._write(pointer, "<II", 0, 0)
            return
        encoded = text.encode()
        self._write(pointer, "<II", self._allocate(encoded), len(encoded))

    def _take(self, index: int) -> object:
        """Remove and return the value at ``index`` of the table of references."""
        value: object = self._table.get(self._store, index)
        self._function("__externref_table_dealloc")(self._store, index)
        return value.value if isinstance(value, wasmtime.Val) else value

    # --- imports --------------------------------------------------------------------------------------------------

    def _import(self, imported: wasmtime.ImportType) -> wasmtime.Func:
        function = IMPORTS.get(imported.name or "")
        if function is None:
            raise EngineNotBuiltError(
                f"the query compiler wants the unknown function {imported.name!r}: it is not that of @prisma/client"
                f" {QUERY_COMPILER_VERSION}; run `make generate`"
            )

        def call(*args: object) -> object:
            return function(self, *args)

        return wasmtime.Func(self._store, cast(wasmtime.FuncType, imported.type), call)

    def _start_table(self) -> None:
        """The constants every wasm-bindgen module expects in its table of references."""
        first = self._table.grow(self._store, 4, wasmtime.Val.externref(_UNDEFINED))
        for index, value in ((0, _UNDEFINED), (first, _UNDEFINED), (first + 1, _NULL), (first + 2, True)):
            self._table.set(self._store, index, wasmtime.Val.externref(value))
        self._table.set(self._store, first + 3, wasmtime.Val.externref(False))

    def _throw(self, pointer: int, length: int) -> None:
        self._panic = self._text(pointer, length)
        raise CompilerError(self._panic)

    def _remember_panic(self, pointer: int, length: int) -> None:
        self._panic = self._text(pointer, length)

    def _number_get(self, pointer: int, value: object) -> None:
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
        self._write(pointer, "<Iid", number is not None, 0, 0.0 if number is None else float(number))

    def _copy_bytes(self, pointer: int, _length: int, data: object) -> None:
        self._memory.write(self._store, cast(bytes, data), pointer & 0xFFFFFFFF)


def _set_property(target: Any, key: Any, value: object) -> None:
    target[key] = _to_python(value)


def _set_entry(target: Any, key: Any, value: object) -> object:
    target[key] = _to_python(value)
    return target


def _set_item(target: list[object], index: int, value: object) -> None:
    if index == len(target):
        target.append(_to_python(value))
    else:
        target.extend([None] * (index + 1 - len(target)))
        target[index] = _to_python(value)


def _get_property(source: object, key: str) -> object:
    if not isinstance(source, dict):
        return _UNDEFINED
    return _from_python(cast("dict[str, object]", source).get(key, _UNDEFINED))


def _number(value: float) -> float:
    """A JavaScript number. Whole ones become ``int``, as JSON would write them."""
    return int(value) if value.is_integer() else value


def _is_safe_integer(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return float(value).is_integer() and abs(value) < 2**53


def _loose_equal(left: object, right: object) -> bool:
    absent = (_NULL, _UNDEFINED)
    if left in absent or right in absent:
        return left in absent and right in absent
    return left == right


_Import = Callable[..., object]

IMPORTS: Final[Mapping[str, _Import]] = MappingProxyType(
    {
        "__wbindgen_init_externref_table": QueryCompiler._start_table,  # noqa: SLF001 - the same class's glue
        # making values
        "__wbg_new_1acc0b6eea89d040": lambda _: {},
        "__wbg_new_68651c719dcda04e": lambda _: {},
        "__wbg_new_e17d9f43105b08be": lambda _: [],
        "__wbg_new_5a79be3ab53b8aa5": lambda _, data: bytes(data),
        "__wbg_new_0_f9740686d739025c": lambda _: time.time(),
        "__wbg_Error_e83987f665cf5504": lambda c, pointer, length: _JsError(c._text(pointer, length)),
        "__wbindgen_cast_2241b6af4c4b2941": lambda c, pointer, length: c._text(pointer, length),
        "__wbindgen_cast_d6cd19b81560fd6e": lambda _, value: _number(value),
        "__wbindgen_cast_9ae0607507abb057": lambda _, value: value,
        "__wbindgen_cast_4625c577ab2ec9ee": lambda _, value: value & 0xFFFFFFFFFFFFFFFF,
        # filling them
        "__wbg_set_3f1d0b984ed272ed": lambda _, target, key, value: _set_property(target, key, value),
        "__wbg_set_907fb406c34a251d": lambda _, target, key, value: _set_entry(target, key, value),
        "__wbg_set_c213c871859d6500": lambda _, target, index, value: _set_item(target, index, value),
        # reading them
        "__wbg_get_with_ref_key_1dc361bd10053bfe": lambda _, source, key: _get_property(source, key),
        "__wbg_get_7bed016f185add81": lambda _, source, index: _from_python(source[index]),
        "__wbg_entries_e171b586f8f6bdbf": lambda _, source: [[key, _from_python(source[key])] for key in source],
        "__wbg_length_cdd215e10d9dd507": lambda _, source: len(source),
        "__wbg_length_69bca3cb64fc8748": lambda _, source: len(source),
        "__wbg_getTime_14776bfb48a1bff9": lambda _, moment: moment * 1000.0,
        "__wbg_prototypesetcall_2a6620b6922694b2": QueryCompiler._copy_bytes,
        "__wbg_Number_bb48ca12f395cd08": lambda _, value: float(value),
        "__wbg_String_8f0eb39a4a4c2f66": lambda c, pointer, value: c._write_text(pointer, str(value)),
        "__wbg___wbindgen_number_get_a20bf9b85341449d": QueryCompiler._number_get,
        "__wbg___wbindgen_string_get_e4f06c90489ad01b": lambda c, pointer, value: c._write_text(
            pointer, value if isinstance(value, str) else None
        ),
        "__wbg___wbindgen_boolean_get_6d5a1ee65bab5f68": lambda _, value: (
            int(value) if isinstance(value, bool) else _NOT_A_BOOLEAN
        ),
        "__wbg___wbindgen_debug_string_df47ffb5e35e6763": lambda c, pointer, value: c._write_text(pointer, repr(value)),
        # asking what they are
        "__wbg_isSafeInteger_d216eda7911dde36": lambda _, value: int(_is_safe_integer(value)),
        "__wbg_instanceof_Uint8Array_20c8e73002f7af98": lambda _, value: int(isinstance(value, bytes)),
        "__wbg_instanceof_ArrayBuffer_70beb1189ca63b38": lambda _, _value: 0,
        "__wbg___wbindgen_in_bb933bd9e1b3bc0f": lambda _, key, source: int(key in source),
        "__wbg___wbindgen_is_object_c818261d21f283a4": lambda _, value: int(isinstance(value, dict | list | bytes)),
        "__wbg___wbindgen_is_string_fbb76cb2940daafd": lambda _, value: int(isinstance(value, str)),
        "__wbg___wbindgen_is_undefined_2d472862bd29a478": lambda _, value: int(value is _UNDEFINED),
        "__wbg___wbindgen_jsval_loose_eq_b664b38a2f582147": lambda _, left, right: int(_loose_equal(left, right)),
        # failing
        "__wbg___wbindgen_throw_b855445ff6a94295": QueryCompiler._throw,
        "__wbg_set_message_82ae475bb413aa5c": QueryCompiler._remember_panic,
    }
)
"""The functions that the compiler of ``@prisma/client`` 7.10.0 calls back, by their exact names."""
