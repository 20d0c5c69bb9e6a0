"""What is rewritten in compiled graphs, for inductor's ``post_grad_custom_pre_pass``.

A sum of products becomes one product: A₁B₁ + A₂B₂ + … = [A₁ A₂ …][B₁; B₂; …]. A weight that is used
at each step of a plan has a gradient that is a sum over the steps, for one observation of outer
products. One by one each of them reads and writes a matrix of the weight's size; together they
write it once.

On a CPU tanh(x) becomes 2σ(2x) − 1: to 2e-7, and two and a half times as fast. The compiler
computes σ by one fast exponential, and tanh by a slow function that is exact to the last digit.
Hidden layers' numbers need no relative accuracy near zero.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

aten = torch.ops.aten

LARGE = 2**15
"""numbers in a tensor from which the time of tanh matters"""


class FuseMatmulSums(CustomGraphPass):
    """Sums with two or more products among their terms."""

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if _is_sum(node) and not _is_inside_a_sum(node):
                _fuse_terms(graph, node)
        graph.eliminate_dead_code()

    def uuid(self) -> bytes:
        """What was compiled and cached with another file, or pass, is compiled again."""
        return get_hash_for_files((__file__,), type(self).__name__)


class CpuPasses(FuseMatmulSums):
    """These, and tanh."""

    def __call__(self, graph: Graph) -> None:
        super().__call__(graph)
        replace_large_tanh(graph)


def _fuse_terms(graph: Graph, total: Node) -> None:
    terms = list(_terms(total))
    products = [term for term in terms if term.target == aten.mm.default and len(term.users) == 1]
    if len(products) < 2:
        return
    with graph.inserting_before(total):
        left = call(graph, aten.cat.default, [product.args[0] for product in products], 1)
        right = call(graph, aten.cat.default, [product.args[1] for product in products], 0)
        merged = call(graph, aten.mm.default, left, right)
        for term in terms:
            if term not in products:
                merged = call(graph, aten.add.Tensor, merged, term)
    total.replace_all_uses_with(merged)


def _terms(node: Node) -> Iterator[Node]:
    """What a sum adds up, through sums that nothing else uses."""
    for operand in node.args:
        assert isinstance(operand, Node)
        if _is_sum(operand) and len(operand.users) == 1:
            yield from _terms(operand)
        else:
            yield operand


def _is_sum(node: Node) -> bool:
    """Of two tensors of one shape and dtype."""
    if node.target != aten.add.Tensor or node.kwargs:
        return False
    kinds = {
        (operand.meta["val"].shape, operand.meta["val"].dtype) if isinstance(operand, Node) else ()
        for operand in node.args
    }
    return len(kinds) == 1 and () not in kinds


def _is_inside_a_sum(node: Node) -> bool:
    return len(node.users) == 1 and _is_sum(next(iter(node.users)))


def call(graph: Graph, target: torch._ops.OpOverload, *args: Any) -> Node:
    """A new node, with the fake value that inductor's later passes read."""
    node = graph.call_function(target, args)
    node.meta["val"] = target(*torch.fx.map_arg(args, lambda arg: arg.meta["val"]))
    return node


def replace_large_tanh(graph: Graph) -> None:
    """In float32 tensors of ``LARGE`` numbers and more."""
    for node in graph.find_nodes(op="call_function", target=aten.tanh.default):
        (x,) = node.args
        assert isinstance(x, Node)
        value = x.meta["val"]
        if value.dtype == torch.float32 and value.numel() >= LARGE:
            with graph.inserting_before(node):
                doubled = call(graph, aten.mul.Tensor, x, 2.0)
                sigmoid = call(graph, aten.sigmoid.default, doubled)
                tanh = call(graph, aten.sub.Tensor, call(graph, aten.mul.Tensor, sigmoid, 2.0), 1.0)
            node.replace_all_uses_with(tanh)
    graph.eliminate_dead_code()
