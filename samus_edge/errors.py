"""Errors that a caller may want to catch.

SamusEdgeError
 ├── MissingExtraError
 ├── BundleError
 ├── ImageFileError
 ├── OutputFileError
 ├── ExportMismatchError
 ├── WeightsError
 ├── DataError
 ├── BackendError
 └── JobInterruptedError

ValueError
 └── BadArgumentError

`BadArgumentError` is what a caller gave wrong: exit code 2, status 422. `SamusEdgeError` is a job
that failed: exit code 1. Whatever else reaches the command line or the service is a bug of ours:
logged with its traceback, exit code 1, status 500.
"""

__all__ = [
    "BackendError",
    "BadArgumentError",
    "BundleError",
    "DataError",
    "ExportMismatchError",
    "ImageFileError",
    "JobInterruptedError",
    "MissingExtraError",
    "OutputFileError",
    "SamusEdgeError",
    "WeightsError",
    "explain_import_error",
    "install_command",
    "missing_extra",
]


class SamusEdgeError(Exception):
    """Root of the errors of a job that failed although its arguments were right."""


class BadArgumentError(ValueError):
    """An argument is wrong: a value, a shape, a range, a combination. The message says what was
    expected."""


class MissingExtraError(SamusEdgeError):
    """A package of an optional extra is needed and not installed."""


class BundleError(SamusEdgeError):
    """A bundle is missing, damaged, tampered with or of a newer format."""


class ImageFileError(SamusEdgeError):
    """An image file is missing, empty, truncated, too large or of an unsupported kind."""


class OutputFileError(SamusEdgeError):
    """A result cannot be written where it was asked for; nothing was left half-written."""


class ExportMismatchError(SamusEdgeError):
    """An exported graph does not compute what the model computes."""


class WeightsError(SamusEdgeError):
    """A checkpoint is not what it should be."""


class DataError(SamusEdgeError):
    """A dataset is incomplete or broken."""


class BackendError(SamusEdgeError):
    """A backend is not available, or fails on a graph."""


class JobInterruptedError(SamusEdgeError):
    """A job was asked to stop, and has saved what it had."""


# By the module that is imported: what pip calls it, and the extra that brings it.
_EXTRAS = {
    "OpenSSL": ("pyopenssl", "signing"),
    "cryptography": ("model-signing", "signing"),
    "fastapi": ("fastapi", "server"),
    "highdicom": ("highdicom", "dicom"),
    "matplotlib": ("matplotlib", "train"),
    "nibabel": ("nibabel", "formats"),
    "model_signing": ("model-signing", "signing"),
    "onnx": ("onnx", "export"),
    "onnxscript": ("onnxscript", "export"),
    "prometheus_client": ("prometheus-client", "server"),
    "pycocotools": ("pycocotools", "formats"),
    "pydicom": ("pydicom", "dicom"),
    "pywt": ("PyWavelets", "train"),
    "safetensors": ("safetensors", "train"),
    "starlette": ("fastapi", "server"),
    "supervision": ("supervision", "supervision"),
    "tensorboardX": ("tensorboardX", "train"),
    "torch": ("torch", "train"),
    "uvicorn": ("uvicorn", "server"),
    "websockets": ("websockets", "server"),
    "yaml": ("PyYAML", "train"),
}
# What a plain install brings.
_BASE = {
    "PIL": "Pillow",
    "cv2": "opencv-python-headless",
    "filelock": "filelock",
    "jinja2": "jinja2",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
}


def install_command(extra: str) -> str:
    """The command that installs an extra: from the folder or archive that this installation came
    from, if any.

    Args:
        extra: for example "train"; "" for the package alone.
    """
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    suffix = f"[{extra}]" if extra else ""
    try:
        origin = json.loads(distribution("samus-edge").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, json.JSONDecodeError):
        origin = {}
    where = str(origin.get("url", "")).removeprefix("file://") if "dir_info" in origin else ""
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f"pip install {editable}'{where or 'samus-edge'}{suffix}'"


def missing_extra(purpose: str, module: str, *, extra: str | None = None) -> MissingExtraError:
    """The error of a package that is not installed, with the command that installs it.

    Args:
        purpose: what needs it, the beginning of the sentence, such as "`samus-edge train`".
        module: the name that was imported, for example "torch.nn".
        extra: the extra that brings it all; None for the one that brings this package.
    """
    package, brought_by = _EXTRAS[module.partition(".")[0]]
    return MissingExtraError(
        f"{purpose} needs {package!r}, which is not installed. Install it with: "
        f"{install_command(extra or brought_by)}"
    )


def explain_import_error(
    purpose: str, error: ImportError, *, extra: str | None = None
) -> SamusEdgeError | None:
    """What is to be done about a package that is missing, or that is there and does not load.

    Args:
        purpose: what needs it, as in `missing_extra`.
        error: as Python raised it.
        extra: as in `missing_extra`.

    Returns:
        An error that says so; None if the import that failed is of our own or of an unknown
        package.
    """
    module = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and module in _EXTRAS:
        return missing_extra(purpose, module, extra=extra)
    if isinstance(error, ModuleNotFoundError) and module in _BASE:
        return MissingExtraError(
            f"{purpose} needs {_BASE[module]!r}, which is not installed. Install it with: "
            f"{install_command('')}"
        )
    traceback, broken = error.__traceback__, module if module in _BASE else ""
    while traceback is not None:  # a broken package raises from its own files, without a name
        name = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        broken = name if name in _BASE or name in _EXTRAS else broken
        traceback = traceback.tb_next
    if not broken:
        return None
    package = _BASE.get(broken) or _EXTRAS[broken][0]
    advice = f"Install it again: pip install --force-reinstall {package}"
    if broken == "cv2":
        advice += (
            ". If a graphics library such as libGL.so.1 is named, another OpenCV package is in "
            "the way: "
            "pip uninstall -y opencv-python opencv-contrib-python first"
        )
    return BackendError(
        f"{purpose} needs {package!r}, which is installed but does not load: {error}. {advice}."
    )
