"""Ways to damage a file: any bytes, and the structure of zip archives, JSON, CSV, NumPy arrays and ONNX.

Each takes bytes and a seeded generator and returns bytes. ``KINDS`` lists those that fit a file's format.
"""

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import Message

Mutation = Callable[[bytes, random.Random], bytes]

NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    -128,
    255,
    2**15,
    2**31 - 1,
    -(2**31),
    2**40,
    2**63 - 1,
    -(2**63),
    10**30,
    10**400,
)
_FLOATS = (float("nan"), float("inf"), -float("inf"), 1e-320, 1e308, -0.0, 0.5)
_TEXTS = ("", "\0", "x" * 5000, "../../x", "ünïcödé", "\ud800", "1e999", "true", "line\nline")


def span(content: bytes, rng: random.Random, most: int = 64) -> tuple[int, int]:
    """Start and end of a part of ``content``, mostly short."""
    start = rng.randrange(len(content) + 1)
    return start, min(len(content), start + rng.choice((1, 2, 4, 8, rng.randint(1, most), len(content))))


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(content: bytes, rng: random.Random) -> bytes:
    start, end = span(content, rng)
    return content[:start] + rng.randbytes(end - start) + content[end:]


def zero(content: bytes, rng: random.Random) -> bytes:
    start, end = span(content, rng)
    return content[:start] + bytes(end - start) + content[end:]


def take_out(content: bytes, rng: random.Random) -> bytes:
    start, end = span(content, rng)
    return content[:start] + content[end:]


def put_in(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.randint(1, 64)) + content[start:]


def repeat(content: bytes, rng: random.Random) -> bytes:
    start, end = span(content, rng)
    return content[:end] + content[start:end] + content[end:]


def integer(content: bytes, rng: random.Random) -> bytes:
    """A field of 4 or 8 bytes set to a limit of its range."""
    size = rng.choice((4, 8))
    start = rng.randrange(max(1, len(content) - size))
    value = rng.choice(NUMBERS) % 256**size
    return content[:start] + value.to_bytes(size, "little") + content[start + size :]


ANY: tuple[Mutation, ...] = (cut, flip, overwrite, zero, take_out, put_in, repeat, integer)


def some(content: bytes, rng: random.Random) -> bytes:
    """Any of the mutations of bytes."""
    return rng.choice(ANY)(content, rng)


def head(content: bytes, rng: random.Random) -> bytes:
    """The first 256 bytes damaged, where most formats describe themselves."""
    return some(content[:256], rng) + content[256:]


def _members(content: bytes) -> list[tuple[zipfile.ZipInfo, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def _zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            # A ZipInfo, as the time of writing would be part of the file.
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def member(content: bytes, rng: random.Random) -> bytes:
    """The bytes of one member damaged, behind a checksum that is right."""
    members = [(info.filename, data) for info, data in _members(content)]
    described = [i for i, (name, _) in enumerate(members) if name.endswith((".pkl", ".json", ".py"))]
    chosen = rng.choice(described) if described and rng.random() < 0.6 else rng.randrange(len(members))
    name, data = members[chosen]
    is_json = data[:1] in (b"{", b"[") and rng.random() < 0.7
    members[chosen] = (name, json_value(data, rng) if is_json else some(data, rng))
    return _zipped(members)


def directory(content: bytes, rng: random.Random) -> bytes:
    """Members renamed, dropped, doubled or compressed."""
    members = [(info.filename, data) for info, data in _members(content)]
    chosen = rng.randrange(len(members))
    name, data = members[chosen]
    how = rng.randrange(5)
    if how == 0:
        members[chosen] = (rng.choice((name + "x", name.upper(), name.rpartition("/")[2], "é/" + name)), data)
    elif how == 1:
        del members[chosen]
    elif how == 2:
        members.append((name + "2", data))
    elif how == 3:
        members[chosen] = (name, b"")
    return _zipped(members, zipfile.ZIP_DEFLATED if how == 4 else zipfile.ZIP_STORED)


def directory_bytes(content: bytes, rng: random.Random) -> bytes:
    """The central directory damaged: flags, methods, sizes, names, offsets."""
    start = content.find(b"PK\x01\x02")
    return content[:start] + flip(content[start:], rng)


def json_value(content: bytes, rng: random.Random) -> bytes:
    """One value of a JSON changed, or one key dropped, doubled or renamed."""
    document = json.loads(content)
    places: list[tuple[Any, Any]] = []
    stack = [document]
    while stack:
        node = stack.pop()
        items = list(node.items() if isinstance(node, dict) else enumerate(node))
        places += [(node, key) for key, _ in items]
        stack += [value for _, value in items if isinstance(value, dict | list)]
    if not places:
        return some(content, rng)
    node, key = rng.choice(places)
    if rng.random() < 0.2:
        value = node.pop(key)
        if isinstance(node, dict) and rng.random() < 0.5:
            node[rng.choice(_TEXTS)] = value
    else:
        node[key] = odd_value(node[key], rng)
    if rng.random() < 0.02:
        return b"[" * 100_000
    return json.dumps(document).encode("utf-8", "surrogatepass")


def odd_value(value: Any, rng: random.Random) -> Any:
    """A value of another type, or the same type at its limits."""
    if isinstance(value, list) and value and rng.random() < 0.5:
        return rng.choice((value[:-1], value * 2, value[::-1], [value]))
    if isinstance(value, str) and value and rng.random() < 0.5:
        position = rng.randrange(len(value))
        return value[:position] + rng.choice("019aZ-_ .:(){}'\"\\é\0") + value[position + 1 :]
    return rng.choice((*NUMBERS, *_FLOATS, *_TEXTS, None, True, False, [], {}, [[]], {"a": 1}))


def safetensors_header(content: bytes, rng: random.Random) -> bytes:
    """The JSON header of a safetensors file changed, its length made right."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json_value(content[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def arrays(content: bytes, rng: random.Random) -> bytes:
    """An array of an .npz of another type or shape, absent or of Python objects."""
    with np.load(io.BytesIO(content)) as archive:
        values = {name: archive[name] for name in archive.files}
    name = rng.choice(list(values))
    value = values[name]
    choices: tuple[Callable[[], Any], ...] = (
        lambda: value.astype(rng.choice((np.int64, np.float16, np.complex64, np.bool_, "U3", "S2", ">i4"))),
        lambda: np.array([{"a": 1}], dtype=object),
        lambda: value.reshape(rng.choice(((-1,), (1, *value.shape), value.shape[::-1]))),
        lambda: value[:0],
        lambda: np.array(3),
        lambda: value[::-1, ...],
        lambda: np.zeros(0, np.dtype([("a", "i4"), ("b", "f8")])),
    )
    values[name] = rng.choice(choices)()
    if rng.random() < 0.1:
        del values[name]
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


def array_header(content: bytes, rng: random.Random) -> bytes:
    """The text that describes an array in an .npz changed, behind a checksum that is right."""
    members = [(info.filename, data) for info, data in _members(content)]
    chosen = rng.randrange(len(members))
    name, data = members[chosen]
    old, new = rng.choice(
        (
            (b"'descr': '|u1'", b"'descr': '|O8'"),
            (b"'shape': (", b"'shape': (99999999999, "),
            (b"'shape': (", b"'shape': (-"),
            (b"'fortran_order': False", b"'fortran_order': None "),
            (b"{", b"["),
            (b"'descr'", b"'dscr' "),
        )
    )
    members[chosen] = (name, data.replace(old, new, 1))
    return _zipped(members)


def table(content: bytes, rng: random.Random) -> bytes:
    """A CSV in another encoding, with other columns, quotes, NULs, or fields that are very long."""
    lines = content.split(b"\n")
    row = rng.randrange(len(lines))
    choices: tuple[Callable[[], bytes], ...] = (
        lambda: content.decode().encode(rng.choice(("utf-16", "utf-32", "cp037", "utf-7"))),
        lambda: content.replace(b",", rng.choice((b";", b"\t", b"", b",,", b',"')), rng.randint(1, 4)),
        lambda: b"\n".join([*lines[:row], lines[row] + b"," + b"9" * 200_000, *lines[row + 1 :]]),
        lambda: b"\n".join(
            [*lines[:row], lines[row] + rng.choice((b"\0", b'"', b"\r", b"\xb2", b"\xd9\xa3"))]
        ),
        lambda: b"\n".join([*lines[:row], b"x" * 5000 + b",1", b"../a\0b,1"]),
        lambda: b"\n".join(lines[1:]),
        lambda: content.replace(b"label", b"file"),
    )
    return rng.choice(choices)()


def message(content: bytes, rng: random.Random) -> bytes:
    """One field of an ONNX model changed, anywhere in it."""
    model = onnx.load_model_from_string(content)
    parent: Message = model
    while True:
        inner = _submessages(parent)
        if not inner or (parent is not model and rng.random() < 0.3):
            break
        parent = rng.choice(inner)
    for _ in range(rng.choice((1, 1, 3))):
        _change_field(parent, rng)
    return model.SerializeToString()


def _submessages(parent: Message) -> list[Message]:
    found: list[Message] = []
    for field, value in parent.ListFields():
        if field.type == field.TYPE_MESSAGE:
            found += list(value) if field.is_repeated else [value]
    return found


def _change_field(parent: Message, rng: random.Random) -> None:
    """Clear, set, shorten or lengthen one field of ``parent``."""
    field = rng.choice(parent.DESCRIPTOR.fields)
    if rng.random() < 0.25 and parent.ListFields():
        parent.ClearField(rng.choice(parent.ListFields())[0].name)
    elif field.is_repeated:
        values = getattr(parent, field.name)
        if field.type == field.TYPE_MESSAGE:
            if values and rng.random() < 0.5:
                values.add().CopyFrom(rng.choice(values))
            elif values:
                del values[rng.randrange(len(values))]
        elif values and rng.random() < 0.3:
            del values[rng.randrange(len(values))]
        else:
            values.append(_scalar(field, rng))
    elif field.type == field.TYPE_MESSAGE:
        getattr(parent, field.name).SetInParent()
    else:
        setattr(parent, field.name, _scalar(field, rng))


def _scalar(field: Any, rng: random.Random) -> Any:
    """An odd value for a field that holds no message."""
    if field.type == field.TYPE_STRING:
        return rng.choice([text for text in _TEXTS if text != "\ud800"] + ["Conv", "input", "Constant"])
    if field.type == field.TYPE_BYTES:
        return rng.randbytes(rng.choice((0, 1, 3, 8, 400)))
    if field.type == field.TYPE_ENUM:
        return rng.choice([value.number for value in field.enum_type.values])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice(_FLOATS)
    bits = 64 if field.type in (field.TYPE_INT64, field.TYPE_UINT64) else 32
    value = rng.choice((*NUMBERS[:-2], rng.randrange(30)))
    if field.type in (field.TYPE_UINT64, field.TYPE_UINT32):
        return value % 2**bits
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


ZIP: tuple[Mutation, ...] = (member, member, directory, directory_bytes)
JSON: tuple[Mutation, ...] = (json_value, json_value)
