"""Where a posterior is, or may be, little else than its prior."""

from __future__ import annotations

from bayes_lsm.design.design import Design


def prior_notes(design: Design) -> tuple[str, ...]:
    """What a reader of a Bayesian fit has to know of levels of the scale part with one study.

    Examples
    --------
    >>> import bayes_lsm as lsm
    >>> bcg = lsm.load_dataset("bcg").assign(first=[1] + [0] * 12)
    >>> for location in ("yi ~ 1", "yi ~ first"):
    ...     model = lsm.LocationScaleModel(location, scale="~ first", variance="vi", data=bcg)
    ...     print(*prior_notes(model.design))
    the scale moderator 'first' is 1 in one study (row 0) and 0 in all others: one residual says
    little of its τ², whose posterior leans on the prior
    the scale moderator 'first' is 1 in one study (row 0) and 0 in all others, and the location part
    has a coefficient for it alone: where that has a wide prior, the posterior of its τ² is the
    prior
    """
    return tuple(
        f"{each.said}, and the location part has a coefficient for it alone: where that has a wide "
        "prior, the posterior of its τ² is the prior"
        if each.is_absorbed
        else f"{each.said}: one residual says little of its τ², whose posterior leans on the prior"
        for each in design.lone_levels
    )
