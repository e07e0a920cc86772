import bz2
import gzip
import lzma
import os
import socket
import sys

import pytest

from sightline.errors import DataError, MissingExtraError
from sightline.retrieval.compression import open_binary, position, uncompressed_name

TEXT = b"".join(b"%d: %d\n" % (n, n * 7919 % 1000) for n in range(20_000))


def compress(suffix, data):
    if suffix == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data)
    return {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](data)


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_what_was_compressed_comes_out(suffix, tmp_path):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress(suffix, TEXT) + compress(suffix, b"another member"))
    with open_binary(path) as file:
        assert file.readline() == b"0: 0\n"
        assert file.read() == TEXT[5:] + b"another member"
        assert position(file) == path.stat().st_size
    assert uncompressed_name(path) == "a.txt"
    assert uncompressed_name(tmp_path / "A.TXT.GZ") == "A.TXT"


@pytest.mark.parametrize("damage", ["cut", "flipped", "not compressed"])
@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_damage_is_an_os_error(suffix, damage, tmp_path):
    data = bytearray(compress(suffix, TEXT))
    if damage == "cut":
        del data[-1000:]
    elif damage == "flipped":
        data[len(data) // 2] ^= 255
    else:
        data = b"plain text"
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with pytest.raises(OSError), open_binary(path) as file:
        file.read()


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path in (tmp_path, tmp_path / "pipe", tmp_path / "link"):
            with pytest.raises(DataError, match="not a regular file"):
                open_binary(path)
        with pytest.raises(OSError):
            open_binary(tmp_path / "s")


def test_zstd_needs_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.zst").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match="readers"):
        open_binary(tmp_path / "a.zst")
