"""Tensors from files get the statistics that fused_probe gives; what is no such file is refused in a sentence."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from maxact.tensor_file import summaries
from maxact_kernels import fused_probe


def test_every_float_tensor_of_a_safetensors_file_is_measured(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(3, 5, 8).bfloat16(),
        "b": torch.randn(7).half(),
        "double": torch.randn(2, 3, dtype=torch.float64),
        "ids": torch.arange(4),
        "none": torch.zeros(0, 4),
        "one": torch.tensor(3.5),
    }
    save_file(tensors, tmp_path / "t.safetensors")
    found = {name: (shape, dtype, s) for name, shape, dtype, s in summaries(str(tmp_path / "t.safetensors"))}
    assert found.keys() == tensors.keys()
    assert found["a"][2].scalars() == fused_probe(tensors["a"]).summary().scalars()
    assert found["b"][2].topk.values[0] == tensors["b"][tensors["b"].abs().argmax()]
    assert found["double"][1] == "float64 as float32"
    assert found["double"][2].absmax == tensors["double"].float().abs().max()
    assert found["ids"][2] == "not a float tensor of 16 or 32 bits"
    assert found["none"][2] == "empty"
    assert found["one"][2].absmax == 3.5
    assert [name for name, *_ in summaries(str(tmp_path / "t.safetensors"), "d*")] == ["double"]
    with pytest.raises(ValueError, match="no tensor matches 'z'"):
        list(summaries(str(tmp_path / "t.safetensors"), "z"))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_an_npy_file_is_measured_in_any_byte_order(tmp_path, dtype):
    array = np.random.default_rng(0).normal(size=(6, 10)).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    ((name, shape, _, summary),) = summaries(str(tmp_path / "a.npy"))
    assert (name, shape) == ("a", (6, 10))
    assert summary.absmax == np.abs(array.astype(np.float32)).max()


def test_what_is_no_tensor_file_is_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00")
    (tmp_path / "a.txt").write_text("1 2 3")
    for name, sentence in [
        ("objects.npy", "not a readable .npy file"),
        ("cut.npy", "not a readable .npy file"),
        ("cut.safetensors", "not a readable safetensors file"),
        ("a.txt", r"expected a .safetensors or .npy file"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            list(summaries(str(tmp_path / name)))
    with pytest.raises(FileNotFoundError):
        list(summaries(str(tmp_path / "missing.npy")))


def test_integers_in_an_npy_file_are_said_not_measured(tmp_path):
    np.save(tmp_path / "i.npy", np.arange(6))
    ((_, _, _, reason),) = summaries(str(tmp_path / "i.npy"))
    assert "not a float type" in reason
