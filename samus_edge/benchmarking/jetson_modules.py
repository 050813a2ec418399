"""Published figures of NVIDIA's Jetson modules, for estimates."""

from dataclasses import dataclass

__all__ = ["JETSON_MODULES", "JetsonModule"]

_ORIN_FLOP_PER_CLOCK = 2048  # fp16 on tensor cores, dense, of one multiprocessor
_KILO = 1e3


@dataclass(frozen=True)
class JetsonModule:
    """What the data sheet says of a module in its fastest power mode.

    Attributes:
        name: as on the command line.
        title: for people.
        fp16_tflops: of the GPU's tensor cores, dense; int8 is twice that. Advertised TOPS are sparse int8,
            four times that, and on some modules with the DLA's.
        gbyte_per_s: of the memory.
        memory_gb: shared by CPU and GPU.
        source: where the figures are from.
    """

    name: str
    title: str
    fp16_tflops: float
    gbyte_per_s: float
    memory_gb: int
    source: str


def _orin(
    name: str, title: str, processors: int, mhz: int, gbyte_per_s: float, memory_gb: int, sheet: str
) -> JetsonModule:
    tflops = processors * _ORIN_FLOP_PER_CLOCK * mhz / _KILO**2
    source = f"{sheet}: {processors} multiprocessors at {mhz} MHz, {gbyte_per_s} GB/s"
    return JetsonModule(name, title, tflops, gbyte_per_s, memory_gb, source)


_NANO = "NVIDIA Jetson Orin Nano Series data sheet"
_NX = "NVIDIA Jetson Orin NX Series data sheet"
_AGX = "NVIDIA Jetson AGX Orin Series data sheet"
_SUPER = "NVIDIA Jetson Orin Nano Super Developer Kit data sheet"

JETSON_MODULES = {
    module.name: module
    for module in (
        _orin("orin-nano-4gb", "Jetson Orin Nano 4GB", 4, 625, 34.0, 4, _NANO),
        _orin("orin-nano-8gb", "Jetson Orin Nano 8GB", 8, 625, 68.0, 8, _NANO),
        _orin("orin-nano-super", "Jetson Orin Nano Super (8GB)", 8, 1020, 102.0, 8, _SUPER),
        _orin("orin-nx-8gb", "Jetson Orin NX 8GB", 8, 765, 102.4, 8, _NX),
        _orin("orin-nx-16gb", "Jetson Orin NX 16GB", 8, 918, 102.4, 16, _NX),
        _orin("agx-orin-32gb", "Jetson AGX Orin 32GB", 14, 930, 204.8, 32, _AGX),
        _orin("agx-orin-64gb", "Jetson AGX Orin 64GB", 16, 1300, 204.8, 64, _AGX),
        JetsonModule(
            "thor-t5000",
            "Jetson Thor T5000",
            258.0,
            273.0,
            128,
            "NVIDIA Jetson Thor data sheet: 2070 TFLOPS of sparse FP4, an eighth of which is dense fp16",
        ),
    )
}
"""By name."""
