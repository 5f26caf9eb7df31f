"""Generated code that does not come from proto/ is found."""

from ci.proto import differences

FRESH = {"a_pb2.py": "1", "a_pb2.pyi": "2"}


def test_the_same_files_differ_in_nothing() -> None:
    assert differences(FRESH, dict(FRESH)) == []


def test_changed_missing_and_left_over_files_are_each_named() -> None:
    found = differences(FRESH, {"a_pb2.py": "changed", "b_pb2.py": "3"})
    assert [line.split()[0].rpartition("/")[2] for line in found] == [
        "a_pb2.py",
        "a_pb2.pyi",
        "b_pb2.py",
    ]
