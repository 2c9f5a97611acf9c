"""Recorded functions that write into kept memory: the same bits as with memory of their own, whatever they compute."""

import threading

import pytest
import torch
from torch import nn

from pyro_vae.inference.compile.memory_plan import KeptMemory, MemoryPlan
from pyro_vae.inference.compile.record_graph import record

WEIGHT, BUFFER = nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(0))), torch.ones(6)


def transposed_last_read(x):
    y = x.exp()
    return (y + y.t(),)  # the last to read y, and not element by element


def part_of_the_last_read(x):
    y = x.exp()
    return (y[:, :3] + y[:, 3:], y[:3].sigmoid())


def chain(x):
    y = (x @ WEIGHT).tanh()
    for _ in range(5):
        y = (y * 2 - 1).sigmoid() + x
    return y, y.sum()


def other_types(x):
    y = x > 0
    return y, (~y).float() * x, x.to(torch.float64).exp().log1p(), torch.where(y, x, -x)


def masked_and_copied(x):
    y = x.masked_fill(x > 1, -torch.inf)
    wide = y[:1].masked_fill(x < 0, 2.0)  # the mask is the larger one
    zeros = x.new_zeros(3, 2)
    zeros[0] += x[0, :2]
    flat = (y * 2).t().reshape(36)
    return y.isnan() | (y / 0).isnan(), wide, zeros, flat + flat.double().float(), y.exp().double() @ WEIGHT.double()


def expanded_scale(x):
    scale = WEIGHT[0].sigmoid().expand(6, 6)  # of which only one row is computed
    kept = scale.exp()  # and returned, with its own strides
    return (x / scale - scale.log() - scale.t().log().neg(), kept, scale.neg().view(36), scale.log().add_(1.0))


def draws(x):
    z = torch.randn_like(x) * x.exp()
    torch.rand(3)  # whose numbers are not used, and would be other ones without it
    return (torch.bernoulli(z.sigmoid()) + z + torch.empty(6, 6).exponential_(),)


def writes(x):
    y = x * 2
    y += 1
    filled = torch.zeros(6, 6)
    filled[2:4] = y[2:4]
    y.clamp_(max=1.0)
    BUFFER.add_(y.sum(0))
    return filled, y, y.abs() + BUFFER


def gathers(x):
    order = torch.tensor([3, 1, 1, 0])
    return x[order], x.index_select(1, order).cumsum(0), torch.stack([x, x * 2]).amax(0), torch.cat([x, x.exp()], 1)


def reductions(x):
    y = x.square()
    return y.sum(), y.sum(0), y.logsumexp(1), y.softmax(-1), y.mean(), y.max(1).values, y.mean((0, 1), keepdim=True)


def expanded(x):
    y = x.sum(0)
    return (y.expand(6, 6) + 1).relu(), y.expand(6, 6) * x, y.expand(6, 6)


def nothing(x):
    empty = x[:0].exp()
    return empty, empty.sum(0), torch.cat([empty, x]).neg()


def normalized(x):
    norm = nn.functional.layer_norm(x.exp(), (6,))
    return norm, nn.functional.gelu(norm), nn.functional.dropout(norm, 0.5), nn.functional.log_softmax(norm, 1)


def gradients(x):
    with torch.enable_grad():
        loss = nn.functional.softplus((x @ WEIGHT).relu() @ WEIGHT.t()).log().sum()
        (gradient,) = torch.autograd.grad(loss, WEIGHT)
    return loss.detach(), gradient


def computed_twice(x):
    y, again = x.exp(), x.exp()  # once in the graph, whose last reader is a view of the second
    z = y @ WEIGHT
    for _ in range(4):
        z = z.sin() @ WEIGHT
    return z, again.t() @ z


def writes_elsewhere(x):
    noise, out = torch.empty_like(x), torch.empty_like(x)
    y = torch.ops.aten.rrelu_with_noise(x.exp() - 1, noise, 0.1, 0.3, True) + 0  # it writes its second argument
    torch.add(y, x, out=out)
    return y, out * 2


def reduced_losses(x):
    p = x.sigmoid()
    of = (nn.functional.binary_cross_entropy, nn.functional.soft_margin_loss, nn.functional.mse_loss)
    return tuple(loss(p, (x > 0).float(), reduction=kind) for loss in of for kind in ("mean", "sum", "none"))


def views_in_place(x):
    y = x[:, :3].exp()
    y.t_()
    return y @ y.t(), y.unsqueeze_(0) + 1


FUNCTIONS = (
    computed_twice,
    writes_elsewhere,
    reduced_losses,
    views_in_place,
    transposed_last_read,
    part_of_the_last_read,
    chain,
    other_types,
    masked_and_copied,
    expanded_scale,
    draws,
    writes,
    gathers,
    reductions,
    expanded,
    nothing,
    normalized,
    gradients,
)


@pytest.mark.parametrize("keeps_outputs", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_results_have_the_bits_of_those_in_memory_of_their_own(function, keeps_outputs):
    graph = record(function, torch.randn(6, 6))
    plan = MemoryPlan(graph.recording, KeptMemory(), range(9) if keeps_outputs else ())
    for seed in range(3):
        x = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
        found = []
        for run in (function, graph, plan):
            BUFFER.fill_(1.0)
            torch.manual_seed(seed)
            with torch.no_grad():
                found.append([*(value.clone() for value in run(x)), BUFFER.clone()])
        assert all(a.dtype == b.dtype == c.dtype and a.equal(b) and b.equal(c) for a, b, c in zip(*found, strict=True))


def test_functions_of_expanded_tensors_are_computed_once_for_each_of_their_elements():
    def log_prob(x, scale):
        wide = scale.expand(50, 6, 6)
        return (-0.5 * (x / wide).square() - wide.log()).sum(), (x - wide.sigmoid()).sum(0)

    x, scale = torch.randn(50, 6, 6), torch.rand(6, 6)
    graph = record(log_prob, x, scale)
    found = graph(x, scale), MemoryPlan(graph.recording, KeptMemory())(x, scale)
    for each in found:
        assert all(a.equal(b) for a, b in zip(each, log_prob(x, scale), strict=True))
    computed = [node for node in graph.recording.graph.nodes if "log" in node.name or "sigmoid" in node.name]
    assert [node.meta["layout"][0] for node in computed] == [(6, 6), (6, 6)]


def test_outputs_are_new_unless_they_are_kept():
    x, memory = torch.randn(6, 6), KeptMemory()
    graph = record(chain, x)
    plan = MemoryPlan(graph.recording, memory, reused_outputs=[0])
    with torch.no_grad():
        (kept, new), (kept_again, new_again) = plan(x), plan(x + 1)
    assert kept.data_ptr() == kept_again.data_ptr()
    assert new.data_ptr() != new_again.data_ptr()
    assert not new.equal(new_again)


def test_results_take_the_memory_of_what_is_not_read_any_more():
    memory, large = KeptMemory(), torch.randn(100, 100)

    def function(x):
        for _ in range(20):
            x = (x + 1).exp().log()
        return (x,)

    graph = record(function, large)
    MemoryPlan(graph.recording, memory)
    assert memory.num_bytes == large.numel() * 4
    MemoryPlan(record(function, large[:60]).recording, memory)  # of plans that never run at the same time
    assert memory.num_bytes == large.numel() * 4


def test_a_parameter_with_other_memory_is_noticed():
    weight = nn.Parameter(torch.randn(6, 6))
    x = torch.randn(6, 6)
    graph = record(lambda x: (x @ weight.t() + weight.detach(),), x)
    graph.keep_memory(KeptMemory())
    for _ in range(2):
        with torch.no_grad():
            assert graph(x)[0].equal(x @ weight.t() + weight)
        weight.data = torch.randn(6, 6)


def test_calls_of_other_threads_do_not_meet():
    x = torch.randn(6, 6)
    graph = record(chain, x)
    graph.keep_memory(KeptMemory(), reused_outputs=[0])
    kept, _ = graph(x)
    before, found = kept.clone(), []
    thread = threading.Thread(target=lambda: found.append(graph(x + 1)[0]))
    thread.start()
    thread.join()
    assert kept.equal(before)
    assert found[0].equal(graph(x + 1)[0])


def test_a_plan_made_in_inference_mode_runs_outside_it():
    x = torch.randn(6, 6)
    graph = record(chain, x)
    with torch.inference_mode():
        graph.keep_memory(KeptMemory())
        graph(x)
    assert graph(x)[0].equal((chain(x))[0])


def test_other_strides_in_the_same_memory_are_noticed():
    weight, x = nn.Parameter(torch.randn(6, 6)), torch.randn(6, 6)
    graph = record(lambda x: (x @ weight.t(),), x)
    graph.keep_memory(KeptMemory())
    graph(x)
    weight.data = weight.data.t()
    with torch.no_grad():
        torch.testing.assert_close(graph(x)[0], x @ weight.t())


def test_numbers_of_arithmetic_are_kept_apart_by_their_signs_and_types():
    def function(x):
        return x * 0.0, x * -0.0, x.double() / 3, x / 3, x + 1e-30

    x = torch.tensor([1.0, -2.0])
    graph = record(function, x)
    graph.keep_memory(KeptMemory())
    for found, expected in zip(graph(x), function(x), strict=True):
        assert torch.equal(found, expected)
        assert torch.equal(found.signbit(), expected.signbit())
