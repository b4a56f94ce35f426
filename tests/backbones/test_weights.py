import argparse
import pickle
import zipfile

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from featbank.backbones.registry import find
from featbank.backbones.weights import digest_state, download, fill, read
from featbank.errors import BackboneError, WeightsUnavailable
from tests.tiny import TinyNet


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "args": argparse.Namespace(lr=0.1)},
        lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"model": {k: v + 1 for k, v in s.items()}, "model_ema": s},
    ],
)
def test_the_usual_wrappers_are_taken_off(tmp_path, wrap):
    state = TinyNet().state_dict()
    torch.save(wrap(state), tmp_path / "w.pth")
    assert same(read(tmp_path / "w.pth")[0], state)


def test_safetensors_and_pth_hold_the_same(tmp_path):
    state = TinyNet().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    read_back, digest = read(tmp_path / "w.safetensors")
    assert all(torch.equal(read_back[k], state[k]) for k in state)
    assert len(digest) == 64


class Payload:
    def __reduce__(self):
        return print, ("a payload ran",)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_file_that_would_run_code_is_refused(tmp_path, capsys, ending):
    path = tmp_path / f"evil{ending}"
    path.write_bytes(pickle.dumps({"state_dict": Payload()}))
    with pytest.raises(BackboneError, match="without running its code"):
        read(path)
    torch.save({"fc.weight": torch.zeros(2), "x": Payload()}, path)
    with pytest.raises(BackboneError, match="without running its code"):
        read(path)
    assert "payload" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a file of weights", b"\x80\x02"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_file_of_something_else_is_refused(tmp_path, content, ending):
    path = tmp_path / f"w{ending}"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match="is not a file of weights"):
        read(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {1: torch.zeros(1)}, torch.zeros(2)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="holds no state dict"):
        read(tmp_path / "w.pth")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(WeightsUnavailable, match="can't be opened"):
            read(path)


def test_weights_that_do_not_fit_name_the_first_reason():
    state = TinyNet().state_dict()
    with pytest.raises(BackboneError, match=r"tiny: stage1.0.weight is missing"):
        fill(TinyNet(), {k: v for k, v in state.items() if k != "stage1.0.weight"}, "tiny")
    with pytest.raises(BackboneError, match="tiny: extra is unknown"):
        fill(TinyNet(), {**state, "extra": torch.zeros(1)}, "tiny")
    with pytest.raises(BackboneError, match=r"fc.weight has shape \[7, 12\], expected \[5, 12\]"):
        fill(TinyNet(), TinyNet(classes=7).state_dict(), "tiny")


def test_weights_without_the_counter_of_old_files_fit():
    net = TinyNet(seed=1)
    state = TinyNet(seed=2).state_dict()
    fill(net, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, "tiny")
    assert torch.equal(net.fc.weight, state["fc.weight"])


def test_a_digest_of_a_state_sees_names_types_shapes_and_bytes():
    def one(tensor, name="weight"):
        module = torch.nn.Module()
        module.register_buffer(name, tensor)
        return digest_state(module)

    base = one(torch.zeros(2, 2))
    assert base == one(torch.zeros(2, 2))
    others = [
        one(torch.zeros(4)),
        one(torch.zeros(2, 2, dtype=torch.int32)),
        one(torch.tensor([[0.0, 0.0], [0.0, -0.0]])),
        one(torch.zeros(2, 2), "bias"),
        one(torch.zeros(())),
        one(torch.zeros(0)),
        one(torch.zeros(2, 2, dtype=torch.bfloat16)),
    ]
    assert len({base, *others}) == len(others) + 1


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_a_head_of_another_size_loads(name):
    original = torchvision.models.get_model(name, weights=None, num_classes=3)
    network = find(name).provider.build(name, None, (64, 64), dict(original.state_dict()))
    assert same(network.state_dict(), original.state_dict())


def test_timm_loads_a_file_with_another_head(tmp_path):
    timm = pytest.importorskip("timm")
    original = timm.create_model("test_resnet", num_classes=3)
    provider = find("timm/test_resnet").provider
    network = provider.build("test_resnet", None, (160, 160), dict(original.state_dict()))
    assert same(network.state_dict(), original.state_dict())
    assert "state_dict" not in network.pretrained_cfg
    state = dict(original.state_dict())
    state.pop("layer1.0.conv1.weight")
    with pytest.raises(BackboneError, match=r"these weights.*layer1\.0\.conv1\.weight"):
        provider.build("test_resnet", None, (160, 160), state)


def test_timm_builds_a_transformer_for_another_input():
    pytest.importorskip("timm")
    provider = find("test_vit").provider
    network = provider.build("test_vit", None, (96, 96), None)
    assert network(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)


def test_densenets_first_files_load():
    network = torchvision.models.densenet121(num_classes=2)
    state = network.state_dict()
    ancient = {
        k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in state.items()
    }
    assert ancient.keys() != state.keys()
    built = find("densenet121").provider.build("densenet121", None, (224, 224), ancient)
    assert same(built.state_dict(), state)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_inception_weights_load_with_and_without_the_auxiliary_head(auxiliary):
    with torch.device("meta"):
        shapes = torchvision.models.googlenet(
            aux_logits=auxiliary, init_weights=False, num_classes=4
        ).state_dict()
    state = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in shapes.items()}
    network = find("googlenet").provider.build("googlenet", None, (224, 224), state)
    assert network.transform_input
    assert network.state_dict().keys() == state.keys()


def test_a_download_that_comes_damaged_leaves_nothing_behind(tmp_path):
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"other bytes")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/net-0123abcd.pth"
            with pytest.raises(WeightsUnavailable, match="came damaged"):
                download(url, tmp_path / "net-0123abcd.pth", what="net")
            assert list(tmp_path.iterdir()) == []
            # sha256 of the bytes that the server sends
            download(url, tmp_path / "net-a3ead5ee.pth", what="net")
            assert (tmp_path / "net-a3ead5ee.pth").read_bytes() == b"other bytes"
        finally:
            server.shutdown()
            thread.join()


def torch_file(path, value):
    torch.save(value, path)
    return path


def test_a_compressed_archive_is_refused_before_it_unfolds(tmp_path):
    plain = torch_file(tmp_path / "plain.pth", {"x": torch.zeros(1_000_000)})
    packed = tmp_path / "packed.pth"
    with (
        zipfile.ZipFile(plain) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert packed.stat().st_size < 20_000
    with pytest.raises(BackboneError, match=r"packed\.pth"):
        read(packed)


def test_a_tensor_of_more_numbers_than_the_file_is_refused(tmp_path):
    stretched = torch.zeros(1).expand(1 << 30, 12)
    path = torch_file(tmp_path / "x.pth", {"fc.weight": stretched})
    with pytest.raises(BackboneError, match=r"fc\.weight declares more numbers"):
        read(path)


def test_a_pickle_that_asks_for_memory_is_refused_before_it_gets_any(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"\x80\x02}X\x01\0\0\0acbuiltins\nbytearray\nI1000000000000\n\x85Rs.")
    with pytest.raises(BackboneError) as caught:
        read(path)
    assert "byte array" in str(caught.value.__cause__)
