"""TOML tables to configuration values and back: cattrs, told how each kind of value is read."""

from __future__ import annotations

import difflib
import enum
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from requiretls_mta.dns.settings import show_server
from requiretls_mta.message.address import Address
from requiretls_mta.service import config_types as kinds
from requiretls_mta.service.config_errors import Path_, Refused
from requiretls_mta.service.endpoints import Endpoint, parse_endpoint

T = TypeVar("T")

RENAMED = {"lists": "list"}
"""Fields whose key in TOML is a word that Python has a use for."""


def converter(folder: Path) -> cattrs.Converter:
    """A converter for the classes of `config_sections`; relative paths start at `folder`."""
    made = cattrs.Converter(detailed_validation=True)
    readers: dict[Any, Callable[[Any], Any]] = {
        str: kinds.parse_text,
        bool: kinds.parse_bool,
        int: lambda value: kinds.parse_integer(value, 0),
        kinds.Count: lambda value: kinds.parse_integer(value, 1),
        kinds.Port: lambda value: kinds.parse_integer(value, 1, 65535),
        kinds.Duration: kinds.parse_duration,
        kinds.DurationOrNone: kinds.parse_duration_or_none,
        kinds.Size: kinds.parse_size,
        kinds.Domain: kinds.parse_domain,
        kinds.ListZone: kinds.parse_list_zone,
        kinds.DomainPattern: kinds.parse_pattern,
        kinds.AddressKey: kinds.parse_address_key,
        kinds.Addresses: kinds.parse_addresses,
        kinds.Endpoints: lambda value: kinds.parse_listen(value, folder),
        kinds.File: lambda value: kinds.parse_file(value, folder),
        kinds.Maildir: lambda value: kinds.parse_maildir(value, folder),
        kinds.Lmtp: lambda value: kinds.parse_lmtp(value, folder),
        kinds.NextHop: lambda value: kinds.parse_next_hop(value, folder),
        kinds.NameServer: kinds.parse_name_server,
        kinds.AnswerPattern: kinds.parse_answers,
        kinds.StoreURL: kinds.parse_store_url,
        kinds.Contact: kinds.parse_contact,
        kinds.SenderPattern: kinds.parse_sender_pattern,
        kinds.RateText: kinds.parse_rate,
        kinds.SourceIPv4: lambda value: kinds.parse_ip(value, 4),
        kinds.SourceIPv6: lambda value: kinds.parse_ip(value, 6),
        Address: kinds.parse_address,
    }
    for kind, reader in readers.items():
        made.register_structure_hook(kind, _ignoring_type(reader))
    made.register_structure_hook_func(lambda t: t == kinds.Network, lambda value, _: kinds.parse_network(value))
    made.register_structure_hook_func(lambda t: t == Endpoint | None, lambda value, _: _endpoint_or_off(value, folder))
    made.register_structure_hook_func(lambda t: _is(t, Literal), lambda v, t: _one_of(v, get_args(t), v))
    made.register_structure_hook_func(
        lambda t: isinstance(t, type) and issubclass(t, enum.Enum),
        lambda v, t: t(_one_of(v, tuple(member.value for member in t), v)),
    )
    made.register_structure_hook_factory(lambda t: _is(t, Mapping), lambda t: _mapping(made, t))
    made.register_structure_hook_factory(lambda t: _is(t, tuple), lambda t: _list(made, t))
    made.register_structure_hook_factory(
        lambda t: attrs.has(t) and t not in (Address, Endpoint), lambda t: _table(made, t, folder)
    )
    _register_writers(made)
    return made


def _ignoring_type(reader: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda value, _: reader(value)


def _is(kind: Any, origin: Any) -> bool:
    return get_origin(kind) is origin


def _endpoint_or_off(value: object, folder: Path) -> Endpoint | None:
    return None if value == "" else parse_endpoint(value, folder)


def _one_of(value: object, allowed: tuple[Any, ...], result: T) -> T:
    if not isinstance(value, str) or value not in allowed:
        raise Refused(" | ".join(f'"{word}"' for word in allowed))
    return result


def _mapping(made: cattrs.Converter, kind: Any) -> Callable[[Any, Any], Any]:
    key_kind, value_kind = get_args(kind)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise Refused("a table")
        result: dict[Any, Any] = {}
        errors: list[Exception] = []
        for name, element in value.items():
            try:
                key = made.structure(name, key_kind)
                if key in result:
                    raise Refused("each name once, in whatever case", found="the same name again")
                result[key] = made.structure(element, value_kind)
            except Exception as error:  # gathered, as cattrs does in its own containers
                error.add_note(IterableValidationNote(f"@ {name}", name, value_kind))
                errors.append(error)
        if errors:
            raise IterableValidationError("while reading a table", errors, kind)
        return result

    return structure


def _list(made: cattrs.Converter, kind: Any) -> Callable[[Any, Any], Any]:
    element_kind = get_args(kind)[0]

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise Refused("a list")
        result: list[Any] = []
        errors: list[Exception] = []
        for index, element in enumerate(value):
            try:
                result.append(made.structure(element, element_kind))
            except Exception as error:
                error.add_note(IterableValidationNote(f"@ {index}", index, element_kind))
                errors.append(error)
        if errors:
            raise IterableValidationError("while reading a list", errors, kind)
        return tuple(result)

    return structure


def _table(made: cattrs.Converter, kind: Any, folder: Path) -> Callable[[Any, Any], Any]:
    attrs.resolve_types(kind)
    overrides = {field.name: _override(field, folder) for field in attrs.fields(kind)}
    structure_fields = make_dict_structure_fn(kind, made, _cattrs_forbid_extra_keys=True, **overrides)

    def structure(value: Any, kind: Any) -> Any:
        if not isinstance(value, dict):
            raise Refused("a table")
        return structure_fields(value, kind)

    return structure


def _override(field: attrs.Attribute[Any], folder: Path) -> Any:
    words = field.metadata.get("words")
    hook = (lambda value, _: kinds.parse_file_or(value, folder, words)) if words else None
    if field.metadata.get("derived"):
        return override(omit=True)
    return override(rename=RENAMED.get(field.name), struct_hook=hook)


def _register_writers(made: cattrs.Converter) -> None:
    made.register_unstructure_hook(kinds.Duration, kinds.write_duration)
    made.register_unstructure_hook(kinds.DurationOrNone, kinds.write_duration)
    made.register_unstructure_hook(kinds.Size, kinds.write_size)
    made.register_unstructure_hook(kinds.File, str)
    made.register_unstructure_hook(kinds.NameServer, show_server)
    made.register_unstructure_hook(kinds.Endpoints, lambda value: [str(endpoint) for endpoint in value])
    made.register_unstructure_hook(kinds.Addresses, lambda value: [str(address) for address in value])
    made.register_unstructure_hook(Address, str)
    made.register_unstructure_hook_func(lambda t: t == kinds.Network, str)
    made.register_unstructure_hook_func(
        lambda t: t == Endpoint | None, lambda value: "" if value is None else str(value)
    )
    made.register_unstructure_hook_factory(
        lambda t: attrs.has(t) and t not in (Address, Endpoint),
        lambda t: make_dict_unstructure_fn(
            t, made, **{f.name: _override(f, Path()) for f in attrs.fields(t) if not f.metadata.get("words")}
        ),
    )


def known_keys(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of the tree under an attrs class; `*` stands for a name of the operator's, `[]` is left out."""
    attrs.resolve_types(kind)
    for field in attrs.fields(kind):
        if field.metadata.get("derived"):
            continue
        here = (*path, RENAMED.get(field.name, field.name))
        yield here
        inner: Any = field.type
        while inner is not None and not (isinstance(inner, type) and attrs.has(inner)):
            arguments = [a for a in get_args(inner) if a is not type(None) and a is not Ellipsis]
            if get_origin(inner) is Mapping:
                here, inner = (*here, "*"), arguments[1]
            elif get_origin(inner) is tuple or (get_origin(inner) in (Union, types.UnionType) and len(arguments) == 1):
                inner = arguments[0]
            else:
                inner = None
        if inner is not None and inner not in (Address, Endpoint):
            yield from known_keys(inner, here)


def suggestion(root: type, path: Path_, name: str) -> str:
    """What an unknown key may have been meant as, and else what its table knows."""
    every = list(known_keys(root))
    plain = [part for part in path if isinstance(part, str)]
    table = [key for key in every if len(key) == len(plain) + 1 and _within(key[:-1], plain)]
    siblings = [key[-1] for key in table if key[-1] != "*"]
    if near := difflib.get_close_matches(name.lower(), siblings, 1, 0.6):
        return f'did you mean "{near[0]}"?'
    elsewhere = [".".join(key) for key in every if key[-1] == name]
    if elsewhere:
        return f'did you mean "{elsewhere[0]}"?'
    near = difflib.get_close_matches(name.lower(), {key[-1] for key in every}, 1, 0.8)
    meant = next((".".join(key) for key in every if near and key[-1] == near[0]), None)
    return f'did you mean "{meant}"?' if meant else "one of " + ", ".join(siblings)


def _within(key: tuple[str, ...], path: list[str]) -> bool:
    return all(known in ("*", part) for known, part in zip(key, path, strict=True))
