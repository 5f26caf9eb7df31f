"""The generated code says what the protocol says, number by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from gen_worker.pb import worker_scheduler_pb2 as pb

TABLE = Path(__file__).with_name("protocol_table.txt")


def read_table(text: str) -> dict[str, set[str]]:
    """Read the table: the rows below each heading."""
    sections: dict[str, set[str]] = {}
    for line in text.splitlines():
        if line.startswith(("service ", "message ", "enum ")):
            rows = sections.setdefault(line, set())
        elif line and not line.startswith("#"):
            rows.add(line)
    return sections


def reserved(section: set[str]) -> tuple[set[int], set[str]]:
    """Return the numbers and names of a section that are given up."""
    rows = [row.split() for row in section if " x" in row]
    return {int(row[0]) for row in rows}, {row[2] for row in rows if len(row) == 3}


SPECIFIED = read_table(TABLE.read_text())
MESSAGES = [heading.split()[1] for heading in SPECIFIED if heading.startswith("message ")]


@pytest.fixture(scope="module")
def file() -> FileDescriptorProto:
    file = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    return file


def test_the_file_is_proto3_of_package_scheduler_v1(file: FileDescriptorProto) -> None:
    assert (file.syntax, file.package) == ("proto3", "scheduler.v1")
    assert not file.dependency


def test_it_has_these_messages_enums_and_services_and_no_others(file: FileDescriptorProto) -> None:
    found = [f"message {message.name}" for message in file.message_type]
    found += [f"enum {enum.name}" for enum in file.enum_type]
    found += [f"service {service.name}" for service in file.service]
    assert sorted(found) == sorted(SPECIFIED)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_has_these_fields(file: FileDescriptorProto, name: str) -> None:
    message = next(message for message in file.message_type if message.name == name)
    specified = {row for row in SPECIFIED[f"message {name}"] if " x" not in row}
    assert {row_of(field, message) for field in message.field} == specified
    assert not message.enum_type
    assert not message.extension_range
    assert all(nested.options.map_entry for nested in message.nested_type)


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_never_uses_these_numbers_and_names_again(
    file: FileDescriptorProto, name: str
) -> None:
    message = next(message for message in file.message_type if message.name == name)
    ranges = [range(each.start, each.end) for each in message.reserved_range]
    numbers, names = reserved(SPECIFIED[f"message {name}"])
    assert {number for numbers in ranges for number in numbers} == numbers
    assert set(message.reserved_name) == names


def test_the_enums_have_these_values(file: FileDescriptorProto) -> None:
    for enum in file.enum_type:
        rows = {f"{value.number} {value.name}" for value in enum.value}
        assert rows == SPECIFIED[f"enum {enum.name}"]


def test_all_methods_stream_both_ways(file: FileDescriptorProto) -> None:
    service = file.service[0]
    rows = {
        f"{method.name} {'stream ' * method.client_streaming}{short(method.input_type)}"
        f" -> {'stream ' * method.server_streaming}{short(method.output_type)}"
        for method in service.method
    }
    assert rows == SPECIFIED[f"service {service.name}"]


def row_of(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Write a field as the table does."""
    entries = {nested.name: nested for nested in message.nested_type}
    entry = entries.get(field.type_name.rpartition(".")[2]) if field.type_name else None
    if entry is not None:
        kind = " ".join(["map", *(type_of(part) for part in entry.field)])
    elif field.label == FieldDescriptorProto.LABEL_REPEATED:
        kind = f"repeated {type_of(field)}"
    elif field.HasField("oneof_index"):
        kind = f"oneof {message.oneof_decl[field.oneof_index].name} {type_of(field)}"
    else:
        kind = type_of(field)
    return f"{field.number} {field.name} {kind}"


def type_of(field: FieldDescriptorProto) -> str:
    """Return the name of a scalar type, a message or an enum."""
    if field.type_name:
        return short(field.type_name)
    names: Any = FieldDescriptorProto.Type
    return str(names.Name(field.type)).removeprefix("TYPE_").lower()


def short(name: str) -> str:
    """Return the name of a type in the package."""
    return name.removeprefix(".scheduler.v1.")
