"""Files become the tensors that the library reads from them, by every way of reading."""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_worker.cancel import CancelToken
from gen_worker.errors import CanceledError, HardwareUnmetError, ResourceError, ValidationError
from gen_worker.models.formats import (
    DamagedFileError,
    DamagedIndexError,
    DamagedSafetensorsError,
    UnsafeFileFormat,
)
from gen_worker.models.reader import load_state_dict, read_files, read_tensors

torch: Any = pytest.importorskip("torch")
safetensors_torch: Any = pytest.importorskip("safetensors.torch")

if TYPE_CHECKING:
    from pathlib import Path

WAYS: list[dict[str, Any]] = [
    {"copy": False},
    {"copy": True},
    {"copy": True, "threads": 1},
    {"hashed": True},
    {},
]


def model(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "large": torch.randn(3_000_001, generator=generator),  # over a block, and not on a page
        "half": torch.randn(129, 7, generator=generator).to(torch.bfloat16),
        "odd": torch.arange(3, dtype=torch.int8),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "fp8": torch.randn(33, generator=generator).to(torch.float8_e4m3fn),
        "fp8x": torch.randn(33, generator=generator).to(torch.float8_e5m2),
    }


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        left, right = (t.contiguous().reshape(-1).view(torch.uint8) for t in (ours[name], tensor))
        assert torch.equal(left, right), name


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def evict(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "model.safetensors")
    safetensors_torch.save_file(model(), path)
    return path


@pytest.mark.parametrize("options", WAYS, ids=repr)
@pytest.mark.parametrize("cold", [True, False])
def test_the_tensors_are_those_of_the_library(
    options: dict[str, Any], cold: bool, path: str
) -> None:
    theirs = {name: tensor.clone() for name, tensor in safetensors_torch.load_file(path).items()}
    if cold:
        evict(path)
    (read,) = read_files([path], **options)
    same(read.tensors, theirs)
    assert read.path == path
    assert read.blake3 in ("", blake3(content(path)).hexdigest())
    assert (read.blake3 != "") == options.get("hashed", False)


ELEMENTS = st.sampled_from(
    ["F4", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "BF16", "F16", "I16", "F32", "I64", "C64"]
)
BITS = {"F4": 4, "BF16": 16, "F16": 16, "I16": 16, "F32": 32, "I64": 64, "C64": 64}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(ELEMENTS, st.integers(0, 9), st.integers(0, 5)), max_size=8),
    pad=st.integers(0, 9),
    chosen=st.sets(st.integers(0, 7)),
    options=st.sampled_from(WAYS),
)
def test_any_layout_is_read_in_part_and_as_a_whole(
    rows: list[tuple[str, int, int]],
    pad: int,
    chosen: set[int],
    options: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    header, position = {}, 0
    for index, (dtype, height, width) in enumerate(rows):
        shape = [height, width * 2]
        size = height * width * 2 * BITS.get(dtype, 8) // 8
        offsets = [position, position + size]
        header[f"t{index}"] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        position += size
    text = json.dumps(header).encode() + b" " * pad  # so that tensors begin anywhere
    data = struct.pack("<Q", len(text)) + text + bytes(i % 2 for i in range(position))
    path = tmp_path_factory.mktemp("layout") / "model.safetensors"
    path.write_bytes(data)
    theirs = safetensors_torch.load_file(path)

    same(read_tensors(path, **options), theirs)
    names = [f"t{index}" for index in chosen if index < len(rows)]
    same(read_tensors(path, names=names, **options), {name: theirs[name] for name in names})


def test_only_the_wanted_bytes_are_read(tmp_path: Path) -> None:
    path = str(tmp_path / "model.safetensors")
    tensors = {f"t{index}": torch.full((1_000_000,), index) for index in range(8)}
    safetensors_torch.save_file(tensors, path)
    seen: list[tuple[int, int]] = []
    (read,) = read_files(
        [path], names={"t1", "t6"}, copy=True, progress=lambda *count: seen.append(count)
    )
    same(read.tensors, {name: tensors[name] for name in ("t1", "t6")})
    assert read.memory is not None
    assert 16_000_000 <= len(read.memory) <= 16_000_000 + 4 * 4096
    assert seen[-1] == (len(read.memory), len(read.memory))


def test_a_test_of_names_may_find_nothing_and_a_name_must_exist(path: str) -> None:
    same(read_tensors(path, names=lambda name: name == "odd"), {"odd": model()["odd"]})
    assert read_tensors(path, names=lambda name: False) == {}
    assert read_tensors(path, names=[], copy=True) == {}
    with pytest.raises(ValidationError, match=r"no tensor 'absent'"):
        read_tensors(path, names=["odd", "absent"])


def test_a_result_is_written_to_without_changing_the_file(path: str) -> None:
    before = content(path)
    for options in WAYS:
        tensors = read_tensors(path, **options)
        tensors["large"].fill_(7)
        tensors["odd"].add_(1)
        assert content(path) == before
        assert tensors["large"][-1] == 7


def test_a_tensor_outlives_the_file_and_the_others(path: str) -> None:
    for options in WAYS[:2]:
        odd = read_tensors(path, **options)["odd"]
        assert odd.tolist() == [0, 1, 2]
    (read,) = read_files([path])
    os.unlink(path)
    same(read.tensors, model())


def test_the_allocation_is_no_larger_than_the_file(path: str) -> None:
    (read,) = read_files([path], hashed=True)
    size = os.path.getsize(path)
    assert read.memory is not None
    assert size <= len(read.memory) < size + 4096
    storages = {tensor.untyped_storage().data_ptr() for tensor in read.tensors.values()}
    aligned = [tensor for tensor in read.tensors.values() if tensor.numel()]
    assert len(storages - {0}) < len(aligned)


@pytest.mark.parametrize("options", [{"copy": True}, {"hashed": True}], ids=repr)
def test_loading_takes_the_memory_of_the_file_and_no_more(
    options: dict[str, Any], tmp_path: Path
) -> None:
    size = 96 << 20
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file({"a": torch.ones(size, dtype=torch.uint8)}, path)
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins here
    except OSError:
        pytest.skip("this system does not tell the peak of memory")
    before = kib_of("VmRSS")
    tensors = read_tensors(path, **options)
    taken = (kib_of("VmHWM") - before) << 10
    assert size * 0.9 < taken < size * 1.2
    assert tensors["a"].numel() == size


def kib_of(field: str) -> int:
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith(field)]
    return int(line.split()[1])


def test_memory_is_copied_to_a_device_as_one(path: str) -> None:
    theirs = safetensors_torch.load_file(path)
    (read,) = read_files([path], copy=True, names=["odd", "large"])
    moved = read.copied_to("cpu")
    same(moved, {name: theirs[name] for name in ("odd", "large")})
    shapes = {name: tensor.shape for name, tensor in read.copied_to("meta").items()}
    assert shapes == {name: theirs[name].shape for name in ("odd", "large")}
    (mapped,) = read_files([path], copy=False)
    same(mapped.copied_to("cpu"), theirs)


def test_cached_files_are_mapped_and_others_are_not(path: str) -> None:
    with open(path, "rb") as file:
        file.read()
    assert read_files([path])[0].method == "mapped"
    assert read_files([path], copy=True)[0].method == "read"
    evict(path)
    assert read_files([path])[0].method == "read"


def test_several_files_at_once(tmp_path: Path) -> None:
    whole = model()
    weight_map = {}
    for index, name in enumerate(whole):
        shard = f"model-{index}.safetensors"
        safetensors_torch.save_file({name: whole[name], f"extra{index}": torch.ones(1)},
                                    tmp_path / shard)  # fmt: skip
        weight_map[name] = shard
    index_path = tmp_path / "model.safetensors.index.json"
    index_path.write_text(json.dumps({"weight_map": weight_map}))

    same(load_state_dict(tmp_path), whole)
    same(load_state_dict(index_path, copy=True, names=["odd"]), {"odd": whole["odd"]})
    everything = read_tensors(sorted(tmp_path.glob("*.safetensors")), hashed=True)
    assert len(everything) == 2 * len(whole)
    with pytest.raises(DamagedIndexError, match="another of the files"):
        read_tensors([tmp_path / "model-0.safetensors", tmp_path / "model-0.safetensors"])


def test_a_directory_has_one_set_of_weights(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="none"):
        load_state_dict(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsafeFileFormat):
        load_state_dict(tmp_path)
    with pytest.raises(UnsafeFileFormat):
        load_state_dict(tmp_path / "pytorch_model.bin")
    safetensors_torch.save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    assert list(load_state_dict(tmp_path)) == ["a"]
    safetensors_torch.save_file({"b": torch.ones(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ValidationError, match=r"'a\.safetensors', 'b\.safetensors'"):
        load_state_dict(tmp_path)
    safetensors_torch.save_file({"m": torch.ones(1)}, tmp_path / "model.safetensors")
    assert list(load_state_dict(tmp_path)) == ["m"]


def test_the_hash_is_that_of_the_file_and_a_wrong_one_is_refused(path: str) -> None:
    digest = blake3(content(path)).hexdigest()
    (read,) = read_files([path], verify={path: f"blake3:{digest}"}, names=["odd"])
    assert read.blake3 == digest
    same(read.tensors, {"odd": model()["odd"]})
    with open(path, "r+b") as file:
        file.seek(-5, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(DamagedSafetensorsError) as caught:
        read_files([path], verify={path: digest}, names=["odd"])
    assert (caught.value.code, caught.value.expected) == ("digest", digest)
    for wrong in ({path: "abc"}, {"other": digest}):
        with pytest.raises(ValidationError, match="verify has"):
            read_files([path], verify=wrong)


def test_a_damaged_file_is_refused_before_another_is_read(path: str, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content(path)[:-1])
    seen: list[int] = []
    with pytest.raises(DamagedFileError):
        read_files([path, str(cut)], progress=lambda done, total: seen.append(done))
    assert seen == []


def test_what_torch_lacks_is_refused_before_it_is_read(tmp_path: Path) -> None:
    for dtype, shape, size in (("F6_E2M3", [4], 3), ("F4", [2, 3], 3)):
        text = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}})
        path = tmp_path / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(size))
        with pytest.raises(ValidationError, match="the installed torch lacks"):
            read_tensors(path)


@pytest.mark.parametrize("options", WAYS, ids=repr)
def test_a_cancel_ends_the_read_between_blocks(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file({"a": torch.zeros(48 << 20, dtype=torch.uint8)}, path)
    token = CancelToken()
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        token.cancel()

    with pytest.raises(CanceledError):
        read_tensors(path, token=token, progress=progress, **options)
    assert seen
    with pytest.raises(CanceledError):
        read_tensors(path, token=token, **options)


@pytest.mark.parametrize("options", WAYS, ids=repr)
def test_what_progress_raises_ends_the_read(options: dict[str, Any], path: str) -> None:
    import threading

    def progress(done: int, total: int) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        read_tensors(path, progress=progress, **options)
    assert not [thread for thread in threading.enumerate() if thread.name == "model-reader"]


def test_page_locking_without_a_gpu_says_so(path: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ResourceError, match="CUDA"):
        read_tensors(path, page_locked=True)
    with pytest.raises(ValidationError, match="page_locked"):
        read_tensors(path, page_locked=True, copy=False)


def test_a_device_that_is_not_there_is_named(path: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(HardwareUnmetError, match="cuda"):
        read_tensors(path, device="cuda")


def test_one_name_is_no_collection(path: str) -> None:
    with pytest.raises(ValidationError, match="collection"):
        read_tensors(path, names="odd")


def test_no_files_are_no_tensors() -> None:
    assert read_files([]) == ()
    assert read_tensors([]) == {}
