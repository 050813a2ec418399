"""A segmenter and the processes around it: forks, pickles, quotas of containers."""

import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from samus_edge.runtime import Segmenter, default_bundle_path
from samus_edge.runtime.backends.backend import usable_cores

BLACK = np.zeros((48, 64), np.uint8)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

FORK = """
import os, sys, numpy as np
from samus_edge.runtime import Segmenter, Stream
image = np.zeros((48, 64), np.uint8)
segmenter = Segmenter.load(sys.argv[1], threads=2, backend=sys.argv[2])
expected = segmenter.segment(image, boxes=[[5, 5, 20, 20]]).masks
stream = Stream(segmenter)
child = os.fork()
if child == 0:
    for call in (
        lambda: segmenter.encode(image),
        lambda: stream.submit(image),
        lambda: stream.result(),
    ):
        try:
            call()
        except Exception as err:
            print(type(err).__name__, err)
    try:
        with Segmenter.load(sys.argv[1], threads=2, backend=sys.argv[2]) as own:
            print(np.array_equal(own.segment(image, boxes=[[5, 5, 20, 20]]).masks, expected))
    except Exception as err:
        print(type(err).__name__, err)
    segmenter.close()
    sys.exit(0)  # the engine's destructors run
_, status = os.waitpid(child, 0)
again = segmenter.segment(image, boxes=[[5, 5, 20, 20]]).masks
print("child", status, "parent", np.array_equal(again, expected))
stream.close()
"""

DATA_LOADER = """
import sys, numpy as np, torch
from samus_edge.runtime import Segmenter
class Masks(torch.utils.data.Dataset):
    def __init__(self): self.segmenter = Segmenter.load(sys.argv[1], threads=2)
    def __len__(self): return 4
    def __getitem__(self, index):
        return self.segmenter.segment(np.zeros((48, 64), np.uint8), boxes=[[5, 5, 20, 20]]).masks
masks = Masks()
masks[0]
def load_own(_): masks.segmenter = Segmenter.load(sys.argv[1], threads=1)
loader = torch.utils.data.DataLoader
print(sum(len(batch) for batch in loader(masks, num_workers=2, worker_init_fn=load_own)))
try:
    list(loader(masks, num_workers=2))
except Exception as err:
    print(type(err).__name__, err)
"""


BACKENDS = (
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(
            find_spec("openvino") is None,
            reason="OpenVINO is not installed: pip install 'samus-edge[openvino]'",
        ),
    ),
)


def run_script(script: str, bundle: Path, backend: str = "onnxruntime") -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle), backend],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_fork
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forked_child_ends_and_says_what_to_do(disc_bundle: Path, backend: str) -> None:
    encode, submit, result, own, parent = run_script(FORK, disc_bundle, backend).splitlines()
    for line in (encode, submit, result):
        assert line.startswith("BackendError ")
        assert "before the process forked" in line
        assert "after the fork" in line
    if backend == "onnxruntime":
        assert own == "True"
    else:  # whose threads a child could only wait for
        assert own.startswith("BackendError OpenVINO was used before this process forked")
    assert parent == "child 0 parent True"


@needs_fork
def test_workers_of_a_data_loader_end_and_say_what_to_do(disc_bundle: Path) -> None:
    pytest.importorskip("torch")
    output = run_script(DATA_LOADER, disc_bundle)
    assert output.startswith("4\n")
    assert "worker_init_fn" in output


def test_a_segmenter_is_not_pickled_and_its_results_are(disc_bundle: Path) -> None:
    with Segmenter.load(disc_bundle) as segmenter:
        with pytest.raises(TypeError, match=r"Segmenter\.load\(\) in each process"):
            pickle.dumps(segmenter)
        embedding = pickle.loads(pickle.dumps(segmenter.encode(BLACK)))
        prediction = segmenter.predict(embedding, boxes=[[5, 5, 20, 20]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(prediction)).masks, prediction.masks)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 4, id="no control groups"),
        pytest.param({"proc/self/cgroup": "0::/"}, 4, id="version 2, no quota file"),
        pytest.param(
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 4, id="no quota"
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"},
            2,
            id="a core and a half",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/kubepods/pod",
                "sys/fs/cgroup/kubepods/cpu.max": "100000 100000",
                "sys/fs/cgroup/kubepods/pod/cpu.max": "300000 100000",
            },
            1,
            id="the quota of a group above",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/docker/1\n1:cpu,cpuacct:/docker/1\n0::/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2,
            id="version 1, seen from inside a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "1:cpu:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            4,
            id="version 1, no quota",
        ),
    ],
)
def test_quotas_of_control_groups_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    """File names and contents as cgroups(7) and the kernel's cgroup-v2 page give them."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert usable_cores(tmp_path) == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_of_a_large_frame_comes_back(
    backend: str, openvino_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(openvino_cache))
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("this system does not say how much memory a process holds")
    script = """
import sys, numpy as np
from samus_edge.runtime import Segmenter
def megabytes(): return int(open("/proc/self/statm").read().split()[1]) * 4096 // 1000000
with Segmenter.load(sys.argv[1], threads=2, backend=sys.argv[2]) as segmenter:
    def segment(side): segmenter.segment(np.full((side, side), 90, np.uint8), boxes=[[1, 1, 9, 9]])
    segment(480)
    before = megabytes()
    segment(4096)
    segment(480)
    print(megabytes() - before)
"""
    grown = int(run_script(script, default_bundle_path(), backend))
    # 440 MB without that on ONNX Runtime, 100 MB on OpenVINO.
    assert grown < (150 if backend == "onnxruntime" else 80)
