from __future__ import annotations

import struct
import sys
import tempfile
import types
import wave
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_worker import io
from gen_worker.errors import InputTooLargeError, ValidationError
from gen_worker.types import Asset, AudioAsset, ImageAsset, Tensors

if TYPE_CHECKING:
    from pathlib import Path

ABSENT = Asset("some/ref")


def stored(path: Path, cls: type[Asset] = Asset) -> Asset:
    return cls(path.name, local_path=str(path))


# Any file


def test_a_file_is_read_and_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("grüße\n".encode())
    asset = stored(path)
    assert io.exists(asset)
    assert io.read_bytes(asset) == "grüße\n".encode()
    with io.open(asset) as file:
        assert file.read(2) == b"gr"
    with io.open(asset, "r") as file:
        assert file.read() == "grüße\n"


def test_weights_are_files_too(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"12")
    assert io.read_bytes(Tensors("w", local_path=str(path))) == b"12"


@pytest.mark.parametrize("mode", ["w", "wb", "a", "r+b", "x"])
def test_an_input_is_not_written(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"kept")
    with pytest.raises(ValueError, match="an input is only read"):
        io.open(stored(path), mode)
    assert path.read_bytes() == b"kept"


@pytest.mark.parametrize("asset", [ABSENT, Asset("r", local_path=""), None, "text", 3])
def test_whether_a_file_exists_never_raises(asset: Any) -> None:
    assert io.exists(asset) is False


def test_a_file_that_is_gone_does_not_exist(tmp_path: Path) -> None:
    assert io.exists(stored(tmp_path / "gone")) is False


@pytest.mark.parametrize("read", [io.read_bytes, io.open])
def test_a_file_that_is_not_here_is_named(read: Any) -> None:
    with pytest.raises(ValidationError, match="Asset 'some/ref' is not on this machine"):
        read(ABSENT)


# Without the extras


def test_images_without_pillow_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'install "gen-worker\[images\]"'):
        io.read_image(ABSENT)


def test_sounds_without_soundfile_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r'install "gen-worker\[audio\]"'):
        io.read_audio(ABSENT)


# Images


class Outputs:
    """The part of a context that images are written through."""

    def __init__(self) -> None:
        self.saved: dict[str, bytes] = {}

    def save_bytes(self, ref: str, data: bytes) -> Asset:
        self.saved[ref] = data
        return Asset(ref, size_bytes=len(data))


@pytest.fixture
def images() -> Any:
    return pytest.importorskip("PIL.Image", reason='needs "gen-worker[images]"')


def reopened(images: Any, data: bytes) -> Any:
    import io as streams

    image = images.open(streams.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("mode", "expected"), [("RGB", "RGB"), ("L", "L"), ("RGBA", "RGBA"), ("", "P")]
)
def test_an_image_is_read_in_the_mode_asked_for(
    images: Any, mode: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    images.new("P", (3, 2)).save(path)
    image = io.read_image(stored(path, ImageAsset), mode)
    assert (image.mode, image.size) == (expected, (3, 2))
    assert image.getpixel((0, 0)) is not None, "the pixels outlive the file"


def test_an_image_is_rgb_unless_asked(images: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.new("RGBA", (1, 1), (9, 8, 7, 255)).save(path)
    assert io.read_image(stored(path)).getpixel((0, 0)) == (9, 8, 7)


def test_an_image_is_upright(images: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = images.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    images.new("RGB", (4, 2)).save(path, exif=exif)
    assert io.read_image(stored(path)).size == (2, 4)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\x00" * 20])
def test_what_is_no_image_is_the_callers_mistake(
    images: Any, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValidationError, match=r"'a\.png' is no readable image") as caught:
        io.read_image(stored(path))
    assert str(tmp_path) not in str(caught.value)


def test_an_image_cut_short_is_the_callers_mistake(images: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValidationError, match="is no readable image"):
        io.read_image(stored(path))


def test_a_file_that_another_program_would_have_to_run_is_not_opened(
    images: Any, tmp_path: Path
) -> None:
    """Pillow knows EPS, and hands it to Ghostscript, whatever the file is called."""
    path = tmp_path / "a.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(x) show\n"
    )
    with pytest.raises(ValidationError, match="its format is not known"):
        io.read_image(stored(path))


def test_an_image_of_too_many_pixels_is_not_decoded(
    images: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    images.new("1", (300, 300)).save(path)
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(ValidationError, match=r"'a\.png' is no readable image: .*90000 pixels"):
        io.read_image(stored(path))


def test_a_mode_that_an_image_has_no_way_to_is_refused(images: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    images.new("LAB", (2, 2)).save(path)
    with pytest.raises(ValidationError, match="cannot be converted from mode 'LAB' to 'CMYK'"):
        io.read_image(stored(path), "CMYK")


@pytest.fixture(scope="module")
def encoded() -> dict[str, bytes]:
    """A small image in every format that is written by Pillow alone."""
    import io as streams

    images = pytest.importorskip("PIL.Image", reason='needs "gen-worker[images]"')
    images.init()
    files = {}
    for format_ in {"PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "ICO", "AVIF"} & {
        *images.SAVE
    }:
        buffer = streams.BytesIO()
        exif = images.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if format_ in ("JPEG", "PNG", "WEBP", "TIFF") else {}
        images.effect_noise((24, 16), 50).convert("RGB").save(buffer, format_, **options)
        files[format_] = buffer.getvalue()
    return files


@given(data=st.data())
def test_damaged_images_are_read_or_refused(encoded: dict[str, bytes], data: st.DataObject) -> None:
    content = bytearray(encoded[data.draw(st.sampled_from(sorted(encoded)))])
    places = st.integers(0, len(content) - 1)
    damage = data.draw(st.dictionaries(places, st.integers(0, 255), max_size=9))
    for place, value in damage.items():
        content[place] = value
    with tempfile.NamedTemporaryFile() as file:
        file.write(content[: data.draw(places) + 1])
        file.flush()
        try:
            image = io.read_image(ImageAsset("x", local_path=file.name))
        except ValidationError:
            return
    assert image.mode == "RGB"


def test_an_image_that_is_not_here_is_named(images: Any) -> None:
    with pytest.raises(ValidationError, match="'some/ref' is not on this machine"):
        io.read_image(ABSENT)


@pytest.mark.parametrize(
    ("format_", "encoder"),
    [
        ("webp", "WEBP"),
        ("jpg", "JPEG"),
        ("jpeg", "JPEG"),
        ("JPG", "JPEG"),
        (".png", "PNG"),
    ],
)
def test_an_image_is_saved_under_the_ref_as_given(images: Any, format_: str, encoder: str) -> None:
    ctx = Outputs()
    picture = images.new("RGB", (3, 2), "red")
    asset = io.write_image(ctx, "out/no-suffix", picture, format=format_)
    assert asset.ref == "out/no-suffix"
    written = reopened(images, ctx.saved["out/no-suffix"])
    assert (written.format, written.size) == (encoder, (3, 2))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "RGB", "I", "CMYK"])
@pytest.mark.parametrize("format_", ["jpg", "png", "webp"])
def test_every_mode_is_saved_in_every_format(images: Any, mode: str, format_: str) -> None:
    ctx = Outputs()
    io.write_image(ctx, "a", images.new(mode, (2, 2)), format=format_)
    assert reopened(images, ctx.saved["a"]).size == (2, 2)


def test_transparency_is_laid_on_white_in_a_jpeg(images: Any) -> None:
    ctx = Outputs()
    io.write_image(ctx, "a", images.new("RGBA", (8, 8), (0, 0, 0, 0)), format="jpg")
    assert reopened(images, ctx.saved["a"]).getpixel((4, 4)) == (255, 255, 255)


def test_quality_matters_where_a_format_has_it(images: Any) -> None:
    noise = images.effect_noise((64, 64), 80).convert("RGB")

    def size(format_: str, quality: int) -> int:
        return (
            io.write_image(Outputs(), "a", noise, format=format_, quality=quality).size_bytes or 0
        )

    assert size("jpg", 10) < size("jpg", 95)
    assert size("webp", 10) < size("webp", 95)
    assert size("png", 10) == size("png", 95)


def test_an_unknown_format_is_refused(images: Any) -> None:
    with pytest.raises(ValueError, match=r"'gif'.*webp"):
        io.write_image(Outputs(), "a", images.new("RGB", (1, 1)), format="gif")


# Sounds


@pytest.fixture
def audio() -> Any:
    return pytest.importorskip("soundfile", reason='needs "gen-worker[audio]"')


def wav(path: Path, channels: list[list[float]], rate: int) -> Asset:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate)
        for frame in zip(*channels, strict=True):
            file.writeframes(struct.pack(f"<{len(frame)}h", *(round(x * 32767) for x in frame)))
    return stored(path, AudioAsset)


def test_a_sound_is_mixed_down_to_the_mean_of_its_channels(audio: Any, tmp_path: Path) -> None:
    asset = wav(tmp_path / "a.wav", [[0.5] * 4, [-0.25] * 4], 8000)
    samples, rate = io.read_audio(asset)
    assert (rate, samples.shape, str(samples.dtype)) == (8000, (4,), "float32")
    assert samples.tolist() == pytest.approx([0.125] * 4, abs=1e-4)


def test_channels_are_kept_on_request(audio: Any, tmp_path: Path) -> None:
    asset = wav(tmp_path / "a.wav", [[0.5] * 4, [-0.25] * 4], 8000)
    samples, _ = io.read_audio(asset, mono=False)
    assert samples.shape == (4, 2)
    assert samples[0].tolist() == pytest.approx([0.5, -0.25], abs=1e-4)


@pytest.mark.parametrize("target", [4000, 12_000, 16_000, 44_100])
@pytest.mark.parametrize("mono", [True, False])
def test_a_sound_is_resampled(
    audio: Any, target: int, mono: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    asset = wav(tmp_path / "a.wav", [[0.5] * 800, [0.5] * 800], 8000)
    samples, rate = io.read_audio(asset, target_sample_rate=target, mono=mono)
    assert rate == target
    assert len(samples) == target // 10
    assert str(samples.dtype) == "float32"
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    assert middle.flatten().tolist() == pytest.approx([0.5] * middle.size, abs=0.01)


def test_resampling_is_polyphase_where_scipy_is_installed(
    audio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resample_poly(samples: Any, up: int, down: int, axis: int) -> Any:
        assert (up, down, axis) == (3, 2, 0), "in lowest terms, along time"
        return samples.repeat(up, axis=axis)[::down].astype("float64")

    signal = types.ModuleType("scipy.signal")
    vars(signal)["resample_poly"] = resample_poly
    monkeypatch.setitem(sys.modules, "scipy", types.ModuleType("scipy"))
    monkeypatch.setitem(sys.modules, "scipy.signal", signal)
    asset = wav(tmp_path / "a.wav", [[0.5] * 4, [0.5] * 4], 8000)
    samples, rate = io.read_audio(asset, target_sample_rate=12_000, mono=False)
    assert (rate, samples.shape, str(samples.dtype)) == (12_000, (6, 2), "float32")


def test_the_same_rate_leaves_the_samples_alone(audio: Any, tmp_path: Path) -> None:
    asset = wav(tmp_path / "a.wav", [[0.1, 0.2, 0.3]], 8000)
    samples, rate = io.read_audio(asset, target_sample_rate=8000)
    assert (rate, samples.tolist()) == (8000, pytest.approx([0.1, 0.2, 0.3], abs=1e-4))


@pytest.mark.parametrize("target", [0, -8000, 0.5])
def test_a_rate_that_is_none_is_refused(audio: Any, target: int, tmp_path: Path) -> None:
    asset = wav(tmp_path / "a.wav", [[0.1, 0.2]], 8000)
    with pytest.raises(ValueError, match="whole number above 0"):
        io.read_audio(asset, target_sample_rate=target)


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a"])
def test_what_is_no_sound_is_the_callers_mistake(audio: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"no sound")
    with pytest.raises(ValidationError, match=f"'{name}' is no readable sound") as caught:
        io.read_audio(stored(path))
    assert str(tmp_path) not in str(caught.value)


def test_a_sound_that_says_it_is_endless_is_refused(audio: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    audio.write(path, [0.0] * 800, 8000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # 36 bits of STREAMINFO are the number of samples (RFC 9639, 8.2)
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(InputTooLargeError, match="decodes to 68719476735 samples"):
        io.read_audio(stored(path))


def test_a_sound_that_would_explode_at_the_new_rate_is_refused(audio: Any, tmp_path: Path) -> None:
    asset = wav(tmp_path / "a.wav", [[0.1] * 23_000], 1)
    assert len(io.read_audio(asset)[0]) == 23_000
    with pytest.raises(InputTooLargeError):
        io.read_audio(asset, target_sample_rate=48_000)


def test_a_sound_without_samples_has_none_at_any_rate(audio: Any, tmp_path: Path) -> None:
    asset = wav(tmp_path / "a.wav", [[]], 8000)
    samples, rate = io.read_audio(asset, target_sample_rate=16_000)
    assert (len(samples), rate) == (0, 16_000)


def test_resampling_is_the_same_over_its_blocks(
    audio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    ramp = [[index / 1000 for index in range(800)], [0.25] * 800]
    asset = wav(tmp_path / "a.wav", ramp, 8000)
    whole, _ = io.read_audio(asset, target_sample_rate=11_025, mono=False)
    monkeypatch.setattr(io, "_RESAMPLED_AT_ONCE", 100)
    pieces, _ = io.read_audio(asset, target_sample_rate=11_025, mono=False)
    assert whole.tobytes() == pieces.tobytes()


def test_a_sound_that_is_not_here_is_named(audio: Any) -> None:
    with pytest.raises(ValidationError, match="'some/ref' is not on this machine"):
        io.read_audio(ABSENT)
