"""Real tools and ours, in any order: each tool's own hook runs once where it is installed, and nothing of ours stays."""

from itertools import pairwise, product
from pathlib import Path

import pytest

from support.hook_tools import TOOLS, runs, traces, world_of_tools
from support.hook_world import World, install, uninstall

STEPS = ("tool", "ours", "tool removed")
# Each step changes something: the same step twice and a removal of nothing are other orders' shorter forms.
ORDERS = [
    order
    for order in product(STEPS, repeat=3)
    if order[0] != "tool removed" and all(one != other for one, other in pairwise(order))
]
HOOK = "#!/bin/sh\necho mine >>ran\n"


@pytest.fixture
def tools(world: World, node_tools: Path) -> World:
    return world_of_tools(world, node_tools)


CASES = [
    pytest.param(name, order, mine, id=f"{name}: {'a hook, ' * mine}{', '.join(order)}")
    for name in TOOLS
    for order in ORDERS
    for mine in (False, True)
    # These two do something with a hook that was there before; it matters where it is ours that they find.
    if not mine or (name in {"pre-commit", "lefthook"} and order[0] == "ours")
]


@pytest.mark.parametrize(("name", "order", "mine"), CASES)
def test_in_any_order_each_hook_runs_once_and_nothing_of_ours_stays(
    tools: World, name: str, order: tuple[str, ...], mine: bool
) -> None:
    tool = TOOLS[name]
    if mine:
        tools.add_hook("pre-commit", HOOK)
    steps = {"tool": tool.install, "ours": install, "tool removed": tool.remove}
    for step in order:
        steps[step](tools)
    is_on = order[-1] == "tool" or (order[-1] == "ours" and order[-2] == "tool")
    expected = ["tool"] if is_on else []
    if mine and (tool.keeps or not is_on):
        expected.append("mine")
    assert sorted(runs(tools)) == sorted(expected)
    if order[-1] == "ours":
        recorded = [metrics["result"] for metrics in tools.metrics()] if expected else []
        assert recorded == ["allowed"] * bool(expected)
    uninstall(tools, "--purge")
    assert traces(tools) == []
    assert sorted(runs(tools)) == sorted(expected)
