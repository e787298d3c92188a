"""Engines: NVIDIA's compiler takes our graphs, and every way it can fail ends in a clear error."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgehybrid import engine as engines
from edgehybrid import rewrites
from edgehybrid.engine import Builders, find_builders
from edgehybrid.engine.bridge import compile_engine
from edgehybrid.engine.build import check_dla, installed_version
from edgehybrid.engine.order import Order, RefusedError
from edgehybrid.engine.process import last_words
from edgehybrid.errors import NotFoundError, NotReadyError, ResourceError, StageError, UsageError
from edgehybrid.graph import Graph
from edgehybrid.placement import plan
from edgehybrid.quantizer import quantize, to_fp16
from edgehybrid.records import Dialect, Engine, EngineOptions, Figure, Target
from tests.engine.fake_tensorrt import RELEASES, RTX_RELEASE, make_tensorrt, names_of
from tests.single import SingleNet, draw, observe

ORIN = Target("orin", "Orin", "tensorrt", "typed", ("fp16", "int8"), {"compute_capability": Figure("8.7", "test")})
RTX = Target(
    "rtx", "RTX", "tensorrt-rtx", "typed", ("fp16", "int8"), {"compute_capability": Figure("8.6, 8.9", "test")}
)
CPU = Target("cpu", "CPU", "onnxruntime", "fp32", ("fp32", "int8"))
NOTHING = Builders(None, None, None)

needs_rtx = pytest.mark.skipif(find_builders().rtx is None, reason="TensorRT-RTX (extra 'rtx') is not installed")


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    """A small network of one int8 convolution, strongly typed."""
    net = SingleNet(1, 24, 8, 8)
    graph = net.graph(net.conv("input", 24, 32, 3, pads=[1, 1, 1, 1]))
    return save(quantize(graph, observe(graph, draw(graph)), plan(graph, "typed")), tmp_path)


@pytest.fixture(scope="module")
def cmt_rewritten(cmt_ti_graph: Graph) -> Graph:
    return rewrites.apply(cmt_ti_graph)[0]


def build(*args: object, **options: object) -> Engine:
    """The engine alone, without what the builder said."""
    return engines.build(*args, **options)[0]  # type: ignore[arg-type]


def save(graph: Graph, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(graph.to_bytes())
    return path


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """Put a module where the child will find it; its name."""
    name = "stand_in_for_tensorrt"
    (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    installed_version.cache_clear()
    return name


def int8(graph: Graph, dialect: Dialect) -> Graph:
    return quantize(graph, observe(graph, draw(graph)), plan(graph, dialect))


# --- NVIDIA's compiler ------------------------------------------------------------------------------------


@needs_rtx
@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize("form", ["cmt_ti_graph", "cmt_rewritten"])
def test_nvidia_compiles_typed_cmt(form: str, precision: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    graph: Graph = request.getfixturevalue(form)
    typed = int8(graph, "typed") if precision == "int8" else to_fp16(graph)
    made = build(save(typed, tmp_path), ORIN, tmp_path / "engine.plan")
    assert (made.status, made.flavor, made.path, made.bytes) == ("checked", "tensorrt-rtx", None, None)
    assert made.reason is not None
    assert made.reason.endswith("parser and compiler accept this graph; the engine itself is built on the device")
    assert not (tmp_path / "engine.plan").exists()


@needs_rtx
@pytest.mark.parametrize("form", ["cmt_ti_graph", "cmt_rewritten"])
def test_nvidia_parses_float32_typed_cmt(form: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The parser alone: TensorRT 8, which this dialect is for, has a compiler of its own."""
    path = save(int8(request.getfixturevalue(form), "fp32"), tmp_path)
    code = (
        "import sys, importlib; trt = importlib.import_module(sys.argv[1]); log = trt.Logger(trt.Logger.ERROR)\n"
        "builder = trt.Builder(log); network = builder.create_network(0); parser = trt.OnnxParser(network, log)\n"
        "taken = parser.parse_from_file(sys.argv[2])\n"
        "quantize = [network.get_layer(i).type == trt.LayerType.QUANTIZE for i in range(network.num_layers)]\n"
        "print(taken, sum(quantize))"
    )
    command = [sys.executable, "-c", code, str(find_builders().rtx), str(path)]
    taken, quantizing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert taken == "True"
    assert int(quantizing) > 50


@needs_rtx
def test_an_rtx_engine_is_built_without_a_gpu(onnx_path: Path, tmp_path: Path) -> None:
    made = build(onnx_path, RTX, tmp_path / "engine.plan")
    assert (made.status, made.flavor, made.path) == ("built", "tensorrt-rtx", str(tmp_path / "engine.plan"))
    assert made.bytes == (tmp_path / "engine.plan").stat().st_size > 1000
    assert "7.5, 8.0, 8.6, 8.9, 12.0" in str(made.reason)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["engine.plan", "model.onnx"]


@needs_rtx
def test_float32_products_leave_out_turing(tmp_path: Path) -> None:
    net = SingleNet(4, 32)
    path = save(net.graph(net.op("Gemm", "input", net.weight(32, 64))), tmp_path)
    made = build(path, RTX, None)
    assert made.status == "built"
    assert "7.5" not in str(made.reason)
    assert "8.6" in str(made.reason)


@needs_rtx
def test_the_float32_typed_dialect_is_checked_for_the_cpu(tmp_path: Path) -> None:
    net = SingleNet(4, 32)
    made = build(save(int8(net.graph(net.op("Gemm", "input", net.weight(32, 64))), "fp32"), tmp_path), CPU, None)
    assert made.status == "checked"
    assert str(made.reason).endswith("ONNX Runtime needs no engine")


@needs_rtx
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("dialect", ["fp32", "typed"])
def test_nvidia_compiles_int8_products_of_every_layout(
    trans_a: int, trans_b: int, dialect: Dialect, tmp_path: Path
) -> None:
    net = SingleNet(32, 20) if trans_a else SingleNet(20, 32)
    weight = net.weight(48, 32) if trans_b else net.weight(32, 48)
    product = net.op("Gemm", "input", weight, net.weight(48), transA=trans_a, transB=trans_b)
    graph = net.graph(net.op("MatMul", product, net.weight(48, 32)))
    assert build(save(int8(graph, dialect), tmp_path), ORIN, None).status == "checked"


@needs_rtx
def test_nvidia_compiles_int8_after_a_pad_in_a_residual_and_around_float32_islands(tmp_path: Path) -> None:
    net = SingleNet(1, 32, 8, 8)
    stream = net.op("Relu", "input")
    branch = net.conv(net.op("Pad", stream, net.ints(0, 0, 1, 1, 0, 0, 1, 1)), 32, 32, 3)
    total = net.op("Add", branch, stream)
    centred = net.op("Sub", total, net.op("ReduceMean", total, axes=[1]))
    variance = net.op("ReduceMean", net.op("Pow", centred, net.const(2.0)), axes=[1])
    x = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(1e-6))))
    graph = net.graph(net.op("Add", net.conv(total, 32, 32), x))
    typed = int8(graph, "typed")
    assert sum(n.op_type == "Cast" for n in typed.nodes()) > 2
    assert build(save(typed, tmp_path), ORIN, None).status == "checked"


@needs_rtx
def test_a_refusal_names_the_node(tmp_path: Path) -> None:
    net = SingleNet(1, 3, 3)
    path = save(net.graph(net.op("Det", "input")), tmp_path)
    with pytest.raises(StageError, match=r"refuses model\.onnx") as caught:
        build(path, ORIN, None)
    assert "node 'n_det_1' (Det)" in caught.value.why


@needs_rtx
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x00not onnx" * 100)
    with pytest.raises(StageError, match=r"refuses model\.onnx"):
        build(tmp_path / "model.onnx", RTX, tmp_path / "engine.plan")
    assert not (tmp_path / "engine.plan").exists()


# --- which builder for which target -----------------------------------------------------------------------


def test_nothing_installed_defers_with_the_command(onnx_path: Path) -> None:
    made = build(onnx_path, ORIN, None, builders=NOTHING)
    assert (made.status, made.flavor) == ("deferred", None)
    assert "pip install 'edgehybrid[rtx]'" in str(made.reason)


def test_full_tensorrt_without_a_gpu_is_never_started(onnx_path: Path) -> None:
    """Its Builder would end the process; the name of the module would not even import."""
    made = build(onnx_path, ORIN, None, builders=Builders("no_such_module", None, None))
    assert made.status == "deferred"


@pytest.mark.parametrize(("capability", "status"), [("8.7", "built"), ("8.6", "deferred")])
def test_full_tensorrt_builds_only_on_the_capability_of_the_target(
    capability: str, status: str, onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install(
        tmp_path,
        monkeypatch,
        "import sys; from tests.engine.fake_tensorrt import RELEASES, RTX_RELEASE, make_tensorrt, names_of\n"
        "print('noise on stdout'); sys.modules[__name__] = make_tensorrt('10.3.0')[0]",
    )
    output = tmp_path / "out" / "engine.plan"
    made = build(onnx_path, ORIN, output, builders=Builders(module, None, capability))
    assert made.status == status
    if status == "built":
        assert (made.flavor, made.path, made.bytes) == ("tensorrt", str(output), 4)
        assert output.read_bytes() == b"plan"
    else:
        assert not output.exists()


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        build(tmp_path / "absent.onnx", ORIN, None)


# --- releases of TensorRT -----------------------------------------------------------------------------------


def network_flags(release: str) -> dict[str, int | None]:
    return names_of(release, "NetworkDefinitionCreationFlag")


PRECISIONS = {"fp32": [], "fp16": ["FP16"], "int8": ["FP16", "INT8"]}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_release_is_told_only_what_it_knows(release: str, precision: str) -> None:
    """The fake raises AttributeError for any name that the real bindings do not have."""
    typed = not release.startswith("8")
    cards = ("SM86",) if release == RTX_RELEASE else ()
    trt, record = make_tensorrt(release)
    order = Order("tensorrt", "model.onnx", typed=typed, precision=precision, capabilities=cards)  # type: ignore[arg-type]
    made = compile_engine(trt, order)
    config = record["config"]
    strong, explicit = ("STRONGLY_TYPED" in network_flags(release), "EXPLICIT_BATCH" in network_flags(release))
    assert record["network"] == sum(
        1 << int(network_flags(release)[name] or 0)
        for name, wanted in (("STRONGLY_TYPED", typed and strong), ("EXPLICIT_BATCH", explicit))
        if wanted
    )
    assert record["flags"] == ([] if typed else PRECISIONS[precision])
    assert config.profiling_verbosity.name == "DETAILED"  # type: ignore[attr-defined]
    assert made.bytes == 4
    assert made.capabilities == tuple(record["capabilities"]) == cards  # type: ignore[arg-type]
    assert ("IProgressMonitor" in dir(trt)) == (not release.startswith("8"))


def test_weakly_typed_graphs_are_for_releases_that_have_the_flags() -> None:
    for release, flags in (("10.16.1.11", ["FP16", "INT8"]), ("11.0.0.114", [])):
        trt, record = make_tensorrt(release)
        compile_engine(trt, Order("tensorrt", "model.onnx", precision="int8"))
        assert record["flags"] == flags


@pytest.mark.parametrize("release", ["8.5.3.1", "8.6.1"])
def test_tensorrt_8_refuses_the_typed_dialect(release: str) -> None:
    trt, _ = make_tensorrt(release)
    with pytest.raises(RefusedError, match=r"TensorRT 8\.\d\.\d.* cannot build strongly typed graphs"):
        compile_engine(trt, Order("tensorrt", "model.onnx", typed=True, precision="int8"))


@pytest.mark.parametrize("release", RELEASES)
def test_options_are_set_or_refused_in_words(release: str) -> None:
    wanted = {
        "workspace_mib": EngineOptions(workspace_mib=512),
        "builder_optimization_level": EngineOptions(optimization_level=5),
        "hardware_compatibility_level": EngineOptions(hardware_compatible=True),
        "version": EngineOptions(version_compatible=True),
    }
    for name, options in wanted.items():
        trt, record = make_tensorrt(release)
        order = Order("tensorrt", "m.onnx", options=options, capabilities=("SM86",) if release == RTX_RELEASE else ())
        refused = (release == "8.5.3.1" and name != "workspace_mib") or (
            release == RTX_RELEASE and name in ("hardware_compatibility_level", "version")
        )
        if refused:
            with pytest.raises(RefusedError, match=release.removeprefix("rtx-")):
                compile_engine(trt, order)
            continue
        compile_engine(trt, order)
        if name == "workspace_mib":
            assert record["pools"] == {"WORKSPACE": 512 << 20}
        elif name == "version":
            assert record["flags"] == ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
        elif name == "builder_optimization_level":
            assert record["config"].builder_optimization_level == 5  # type: ignore[attr-defined]
        else:
            assert record["config"].hardware_compatibility_level.name == "AMPERE_PLUS"  # type: ignore[attr-defined]


@pytest.mark.parametrize("release", ["8.5.3.1", "8.6.1", "10.3.0", "10.7.0"])
def test_dla_gets_the_scales_under_the_heading_of_the_release(release: str, tmp_path: Path) -> None:
    (tmp_path / "calibration.cache").write_text("TRT-8503-EntropyCalibration2\ninput: 3c010204\n")
    trt, record = make_tensorrt(release, dla_cores=2)
    options = EngineOptions(dla_core=1)
    cache = str(tmp_path / "calibration.cache")
    compile_engine(trt, Order("tensorrt", "m.onnx", precision="int8", options=options, calibration_cache=cache))
    config = record["config"]
    assert record["flags"] == ["FP16", "INT8", "GPU_FALLBACK"]
    assert (config.DLA_core, config.default_device_type.name) == (1, "DLA")  # type: ignore[attr-defined]
    calibrator = config.int8_calibrator  # type: ignore[attr-defined]
    heading = {"8.5.3.1": "8503", "8.6.1": "8601", "10.3.0": "100300", "10.7.0": "100700"}[release]
    assert calibrator.read_calibration_cache() == f"TRT-{heading}-EntropyCalibration2\ninput: 3c010204\n".encode()
    assert calibrator.get_batch(["input"]) is None


def test_dla_is_refused_where_there_is_none() -> None:
    options = EngineOptions(dla_core=0)
    for release, cores, said in (("11.4.0.106", 2, "takes no calibration cache"), ("10.3.0", 0, "offers 0")):
        trt, _ = make_tensorrt(release, dla_cores=cores)
        with pytest.raises(RefusedError, match=said):
            compile_engine(trt, Order("tensorrt", "m.onnx", precision="int8", options=options))
    nano = replace(ORIN, figures={**ORIN.figures, "dla": Figure(0, "test")})
    with pytest.raises(UsageError, match="--dla 0 does not exist on orin"):
        check_dla(nano, options)
    check_dla(replace(ORIN, figures={"dla": Figure(1, "test")}), options)


def test_timings_are_shared_and_damaged_ones_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "timing" / "t.cache"
    order = Order("tensorrt", "m.onnx", timing_cache=str(path))
    path.parent.mkdir()
    for content, started in ((None, b""), (b"old", b"old"), (b"damaged", b""), (b"other device", b"")):
        if content is not None:
            path.write_bytes(content)
        trt, record = make_tensorrt("10.3.0", rejected_timings=b"other device")
        compile_engine(trt, order)
        assert record["timings"] == started
        assert path.is_file()
    compile_engine(make_tensorrt("8.5.3.1")[0], order)


def test_timings_that_cannot_be_kept_do_not_cost_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("in the way")
    trt, _ = make_tensorrt("10.3.0")
    assert compile_engine(trt, Order("tensorrt", "m.onnx", timing_cache=str(tmp_path / "file" / "t"))).bytes == 4
    assert "the timing cache was not kept" in capsys.readouterr().err


def test_steps_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    trt, record = make_tensorrt("10.3.0")
    compile_engine(trt, Order("tensorrt", "m.onnx"))
    monitor = record["config"].progress_monitor  # type: ignore[attr-defined]
    monitor.phase_start("Tactics", None, 2)
    assert monitor.step_complete("Tactics", 0)
    assert monitor.step_complete("Tactics", 1)
    monitor.phase_finish("Tactics")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("progress: ")]
    assert lines == ['progress: ["Tactics", 1, 2]', 'progress: ["Tactics", 2, 2]']


def test_parser_errors_are_told_with_and_without_node_names() -> None:
    old = SimpleNamespace(code=lambda: "ErrorCode.UNSUPPORTED_NODE", desc=lambda: "no importer\n for op")
    new = SimpleNamespace(**vars(old), node_name=lambda: "n", node_operator=lambda: "Foo")
    for fault, text in ((old, "UNSUPPORTED_NODE: no importer for op"), (new, r"node 'n' \(Foo\): UNSUPPORTED_NODE")):
        trt, _ = make_tensorrt("10.3.0", faults=[fault])
        with pytest.raises(RefusedError, match=text):
            compile_engine(trt, Order("tensorrt", "model.onnx", typed=True, precision="int8"))


def test_a_compiler_that_returns_nothing_is_a_refusal() -> None:
    trt, _ = make_tensorrt("10.3.0", engine=None)
    with pytest.raises(RefusedError):
        compile_engine(trt, Order("tensorrt", "model.onnx", typed=True, precision="int8"))


# --- the child ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error", "why"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", StageError, "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ResourceError, "out of memory"),
        ("raise ImportError('libnvinfer.so.10: no such file')", NotReadyError, "libnvinfer.so.10: no such file"),
        ("raise RuntimeError('what no one foresaw')", StageError, "what no one foresaw"),
        (
            "import sys; print('error: CUDA initialization failure', file=sys.stderr); sys.exit(5)",
            StageError,
            "CUDA init",
        ),
        (
            "import sys; print('error: OutOfMemory (no further information)', file=sys.stderr)\nsys.exit(5)",
            ResourceError,
            "OutOfMemory",
        ),
    ],
    ids=["segfault", "killed", "libraries", "bug", "log", "memory"],
)
def test_every_end_of_the_child_is_an_error_that_says_why(
    code: str, error: type[Exception], why: str, onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install(tmp_path, monkeypatch, code)
    with pytest.raises(error) as caught:
        build(onnx_path, ORIN, tmp_path / "engine.plan", builders=Builders(module, None, "8.7"))
    assert why in caught.value.why  # type: ignore[attr-defined]
    assert not (tmp_path / "engine.plan").exists()


def test_ctrl_c_leaves_no_child_behind(onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    module = install(
        tmp_path,
        monkeypatch,
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"pathlib.Path({str(pid_file)!r} + '.new').write_text(str(os.getpid()))\n"
        f"os.rename({str(pid_file)!r} + '.new', {str(pid_file)!r})\n"
        "time.sleep(600)",
    )
    code = (
        "import sys; from pathlib import Path; from edgehybrid.engine import Builders, build\n"
        "from tests.engine.test_build import ORIN\n"
        f"build(Path(sys.argv[1]), ORIN, None, builders=Builders({module!r}, None, '8.7'))"
    )
    command = [sys.executable, "-c", code, str(onnx_path)]
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=root)
    deadline = time.monotonic() + 60
    while not pid_file.exists():
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(signal.SIGINT)
    _, log = parent.communicate(timeout=30)
    assert "KeyboardInterrupt" in log
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_last_words_prefer_the_refusal_then_errors_then_the_end() -> None:
    log = ["a warning", "error: first", "error: second", "error: third", "more"]
    assert last_words([*log, "refused: node 'x'"]) == "node 'x'"
    assert last_words(log) == "second | third"
    assert last_words(["one", "", "two", "three", "four"]) == "two | three | four"
    assert last_words([]) == "it left no message"


def test_builders_are_found_without_importing_them() -> None:
    found = find_builders()
    assert (found.rtx is not None) == any(map(importlib.util.find_spec, ("tensorrt_rtx", "tensorrt_rtx_bindings")))
    code = "import sys; from edgehybrid.engine import find_builders; find_builders(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.startswith("tensorrt")]
