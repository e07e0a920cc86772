"""What `sightline.retrieval` and `sightline.training` call public is there, documented, and costs nothing unasked."""

import subprocess
import sys

import pytest

from sightline import retrieval, training

PUBLIC = [(package, name) for package in (retrieval, training) for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=lambda part: getattr(part, "__name__", part))
def test_every_public_name_is_there_and_documented(package, name):
    public = getattr(package, name)
    assert public.__doc__ and not public.__doc__.startswith(f"{name}("), f"{name} has no docstring of its own"
    assert public.__name__ == name and name in dir(package)


@pytest.mark.parametrize("package", [retrieval, training], ids=lambda package: package.__name__)
def test_unknown_names_are_refused_as_by_any_module(package):
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = package.Nothing


@pytest.mark.parametrize("package", ["sightline.retrieval", "sightline.training"])
def test_importing_the_package_imports_no_heavy_library(package):
    code = f"import sys, {package}; print(*{{'torch', 'numpy', 'faiss', 'pydantic', 'yaml'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
