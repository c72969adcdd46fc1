"""When a model is compiled, one function for all blocks of a kind, and that it trains to the same weights."""

import logging
import time
from functools import partial

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch.nn.parallel import DistributedDataParallel

from pikavae.config import ModelConfig
from pikavae.model import autoencoder
from pikavae.model.autoencoder import AutoencoderKL, ResnetBlock2D
from pikavae.training import compiling
from pikavae.training.compiling import Compiler, compile_blocks, compiler_failure, pays
from pikavae.training.loop import train

from .conftest import make_config

CPU = torch.device("cpu")
CONFIG = ModelConfig(channels=(8, 16), num_res_blocks=2, norm_groups=4)


class Graphs(list):
    """Collects what is compiled, for its graph alone: a machine without a C++ compiler has no other backend."""

    def __call__(self, graph, inputs):
        self.append(graph)
        return aot_eager(graph, inputs)


@pytest.fixture
def graphs():
    torch._dynamo.reset()
    yield Graphs()
    torch._dynamo.reset()


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def make_model(activations="keep"):
    torch.manual_seed(0)
    model = AutoencoderKL(CONFIG).train()
    model.choose_activations(activations)
    return model


def gradients(model, wrap=lambda model: model, *, bf16=False):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        reconstructions, posterior = wrap(model)(images, torch.ones(2, 4, 8, 8))
    ((reconstructions.float() - images).square().mean() + 1e-3 * posterior.kl().mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("activations", ["keep", "recompute", "checkpoint"])
def test_blocks_of_a_kind_share_one_graph_and_give_the_same_gradients(activations, graphs, monkeypatch):
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    expected, model = gradients(make_model(activations)), make_model(activations)
    with torch._dynamo.config.patch(recompile_limit=1):  # the full model has more kinds than torch's limit
        compile_blocks(model, varies=False, backend=graphs)
        found = gradients(model)
    blocks = [module for module in model.modules() if isinstance(module, ResnetBlock2D)]
    kinds = len(graphs)
    assert len(blocks) == 14
    # (8, 8) and (16, 16) at 16 px, (8, 16) at 8 px, (16, 8) at 16 px, (16, 16) at 8 px
    assert 1 < kinds <= 5
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    model.zero_grad()
    gradients(model)
    assert len(graphs) == kinds


@pytest.mark.usefixtures("process_group")
def test_gradients_are_the_same_under_ddp_and_autocast(graphs):
    expected, model = gradients(make_model(), bf16=True), make_model()
    compile_blocks(model, varies=False, backend=graphs)
    found = gradients(model, DistributedDataParallel, bf16=True)
    assert graphs
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_only_training_is_compiled(graphs):
    model = make_model()
    names = set(model.state_dict())
    compile_blocks(model, varies=False, backend=graphs)
    with torch.no_grad():
        model(torch.zeros(1, 3, 16, 16))
    model.eval()(torch.zeros(1, 3, 16, 16))
    assert graphs == []
    assert set(model.state_dict()) == names


def test_sizes_that_vary_share_a_graph(graphs):
    model = make_model()
    compile_blocks(model, varies=True, backend=graphs)
    model(torch.zeros(1, 3, 80, 88))  # large enough for oneDNN, which computes small maps in another way
    kinds = len(graphs)
    for height, width in ((88, 104), (104, 72)):
        model(torch.zeros(1, 3, height, width))
    assert len(graphs) == kinds


@pytest.fixture
def compiled(monkeypatch):
    """Which models were compiled, with a clock that shows a step of two seconds."""
    models, seconds = [], iter(range(0, 1000, 2 * compiling.TIMED))
    monkeypatch.setattr(compiling, "compile_blocks", lambda model, varies: models.append(model))
    monkeypatch.setattr(compiling, "compiler_failure", lambda device: None)
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return models


def run(compiler, *, steps_left, seconds=0.0):
    """The first steps, and whether they ended with a compiled model."""
    for _ in range(compiling.SETTLED + compiling.TIMED + 5):
        compiler.after_step(steps_left, seconds)


@pytest.mark.parametrize(
    ("changes", "steps_left", "seconds", "expected"),
    [
        ({}, 301, 0, True),  # ten minutes of two-second steps, of which a tenth pays for a minute
        ({}, 299, 0, False),
        ({"training.minutes": 20}, 10**6, 0, True),
        ({"training.minutes": 20}, 10**6, 1000, False),
        ({"training.compile": False}, 10**6, 0, False),
        ({"data.crop": "buckets"}, 10**6, 0, False),
        ({"loss.equivariance": 0.5}, 10**6, 0, False),
    ],
)
def test_auto_compiles_on_cuda_if_the_rest_of_the_run_pays(changes, steps_left, seconds, expected, compiled):
    model = make_model()
    run(Compiler(model, make_config(**changes), torch.device("cuda")), steps_left=steps_left, seconds=seconds)
    assert compiled == ([model] if expected else [])


def test_auto_never_compiles_on_a_cpu(compiled):
    run(Compiler(make_model(), make_config(), CPU), steps_left=10**6)
    assert compiled == []


def test_a_training_asks_after_each_step(tmp_path, prepared, monkeypatch):
    asked = []
    monkeypatch.setattr(Compiler, "after_step", lambda self, steps_left, seconds: asked.append((steps_left, seconds)))
    train(make_config(), prepared, tmp_path, CPU)
    assert [steps_left for steps_left, _ in asked] == [5, 4, 3, 2, 1, 0]
    assert 0 < asked[0][1] < asked[-1][1]


def test_it_compiles_at_once_if_it_is_told_to(compiled, caplog):
    with caplog.at_level(logging.INFO):
        Compiler(make_model(), make_config(**{"training.compile": True}), CPU)
    assert len(compiled) == len(caplog.messages) == 1


def test_of_several_processes_one_announces_it(compiled, caplog):
    with caplog.at_level(logging.INFO):
        Compiler(make_model(), make_config(**{"training.compile": True}), CPU, announces=False)
    assert (len(compiled), caplog.messages) == (1, [])


def test_without_a_compiler_one_line_says_so_and_training_runs(graphs, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    model = make_model()
    Compiler(model, make_config(**{"training.compile": True}), CPU)
    assert caplog.messages == [
        "training.compile true, but torch.compile does not work here (InvalidCxxCompiler: No working C++ compiler "
        "found); training runs uncompiled"
    ]
    gradients(model)
    assert graphs == []


def test_a_compiler_that_works_gives_no_reason(graphs, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    assert compiler_failure(CPU) is None
    assert len(graphs) == 1


def test_what_pays():
    assert pays(compiling.COMPILE_SECONDS / compiling.SHARE_SAVED + 1)
    assert not pays(compiling.COMPILE_SECONDS / compiling.SHARE_SAVED - 1)
