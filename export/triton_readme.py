"""The README of a written Triton model repository."""

from collections.abc import Sequence

from samus_edge.export.triton_config import ServedModel
from samus_edge.export.triton_settings import TritonSettings
from samus_edge.runtime.manifest import Manifest

__all__ = ["repository_readme"]

_TENSORRT_NOTE = """\
The models `*_tensorrt` need an NVIDIA GPU. ONNX Runtime builds their engines on the server when they
are loaded and keeps them in `/engines` of the container: mount a folder there that the server may
write, or each start builds them again. Before use compare their masks with those of `*_onnx` on your
own frames: some TensorRT versions give wrong results on such networks.
"""


def repository_readme(
    manifest: Manifest, models: Sequence[ServedModel], settings: TritonSettings
) -> str:
    """Whose model this is, under what licence, what it is not for, and what is in the folder.

    Args:
        manifest: of the bundle.
        models: what was written.
        settings: how they are served.

    Returns:
        Markdown.
    """
    rows = [
        f"| `{model.name}` | {model.variant} | `{model.graph}` | "
        f"{manifest.graphs[model.graph].sha256} | {model.max_batch_size(settings)} |"
        for model in models
    ]
    parts = [
        f"# {manifest.name}: a Triton model repository",
        (
            f"Written by samus-edge from the bundle `{manifest.name}` ({manifest.model}, "
            f"{manifest.arch}), version {settings.version}. `bundle_manifest.json` is the bundle's "
            "manifest."
        ),
        "**Not a medical device.**\n" + "\n".join(f"- {limit}" for limit in manifest.limits),
        f"Intended use: {manifest.intended_use}",
        f"Licence: {manifest.licence}\n" + "\n".join(f"- {credit}" for credit in manifest.credits),
        "\n".join(
            (
                "| model | variant | graph of the bundle | its SHA-256 | largest batch |",
                "| --- | --- | --- | --- | --- |",
                *rows,
            )
        ),
    ]
    if "tensorrt" in settings.variants:
        parts.append(_TENSORRT_NOTE.rstrip())
    parts += [
        (
            "An image encoder and a mask decoder of different bundles give wrong masks without an error: "
            "a client should compare `samus_edge.weights_sha256` in the `parameters` of both "
            "configurations. Triton itself asks nobody who they are: let only trusted machines reach it."
        ),
        "How to start a server, clients, batching and updates: docs/triton.md of samus-edge.",
    ]
    return "\n\n".join(parts) + "\n"
