"""Compiled models, kept for the next fit.

Compiling a model takes many seconds, sampling it a fraction of one. So compiled models are kept,
under a key that says everything about a model but its data: a fit of other data, or with other
numbers in the same families of priors, is sampled at once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pymc as pm

_MOST = 8
_kept: OrderedDict[Hashable, Any] = OrderedDict()


def compile_model(
    model: pm.Model,
    variables: Sequence[str],
    *,
    sampled: Callable[[], pm.Model] | None = None,
    numbers: Mapping[str, Any] | None = None,
) -> Any:
    """A model compiled for nutpie, with its own data, from the store if one like it is there.

    Draws are kept of the `variables`. What is compiled in the model's place is what `sampled`
    builds: the same posterior in other coordinates, which follow from the model's structure.
    `numbers` are the data that it adds to those of the model.
    """
    import nutpie

    key = (tuple(variables), sampled is not None, fingerprint(model))
    if key not in _kept:
        built = model if sampled is None else sampled()
        _kept[key] = nutpie.compile_pymc_model(built, var_names=list(variables))
        if len(_kept) > _MOST:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    compiled = _kept[key]
    data = {**(numbers or {}), **{each.name: each.get_value() for each in model.data_vars}}
    used = {variable.name for variable in compiled.shared_var_keys}
    return compiled.with_data(**{name: data[name] for name in used & data.keys()})


def fingerprint(model: pm.Model) -> Hashable:
    """Everything about a model but the values of its data: equal for models of one structure.

    Operations, constants and names of the data, node by node, and the sizes of the unknowns.
    """
    from pytensor.graph.basic import Constant
    from pytensor.graph.traversal import toposort

    number: dict[Any, Hashable] = {}
    nodes: list[Hashable] = []
    for node in toposort(_graph(model)):
        for leaf in node.inputs:
            if leaf in number:
                continue
            constant = isinstance(leaf, Constant)
            value = np.asarray(leaf.data).tobytes() if constant else leaf.name
            number[leaf] = (str(leaf.type), value)
        nodes.append((node.op, tuple(number[each] for each in node.inputs)))
        number.update({each: (len(nodes), i) for i, each in enumerate(node.outputs)})
    dims = model.named_vars_to_dims
    sizes = tuple(
        (each.name, tuple(len(model.coords[dim]) for dim in dims.get(each.name, ())))
        for each in model.free_RVs
    )
    return tuple(nodes), sizes


def _graph(model: pm.Model) -> list[Any]:
    """What a model is made of, in operations that are equal from one building of it to the next.

    That is its random variables. Those of a `CustomDist`, or one that is truncated, are operations
    of their own each time; then it is the density, in terms of the variables' values.
    """
    from pymc.distributions.custom import CustomDistRV
    from pymc.model.transform.conditioning import remove_value_transforms
    from pytensor.tensor.random.op import RandomVariable

    operations = [each.owner.op for each in model.basic_RVs]
    if all(
        isinstance(op, RandomVariable) and not isinstance(op, CustomDistRV) for op in operations
    ):
        return [*model.basic_RVs, *model.deterministics, *model.potentials]
    plain = remove_value_transforms(model)
    return [plain.logp(), *plain.replace_rvs_by_values(plain.deterministics)]
