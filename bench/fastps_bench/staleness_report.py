"""Figures of ``fastps-bench staleness`` as text."""

from __future__ import annotations

from typing import Any

from fastps_bench.report import aligned, header

__all__ = ["staleness_table"]

NOTES = """\
Medians (least - greatest) of the repeats. Steps are those of all workers together. Hardware
performance: steps a second. Statistical performance: steps to the target loss. Their product is
what counts: seconds to the target. Staleness: steps that pulls were ahead of the slowest worker.
"""


def staleness_table(facts: dict[str, Any], scenes: list[dict[str, Any]]) -> str:
    """Return the results as lines for people.

    Parameters
    ----------
    facts : dict
        What `machine.describe` returns.
    scenes : list of dict
        One for each scene: delays, sharing, target, bayes_loss, and policies, a list of what
        `figures_of` returns with label.
    """
    lines = header(facts)
    for scene in scenes:
        lines += ["", f"{scene['delays']}; {scene['sharing']}", _target(scene), ""]
        lines += _rows(scene["policies"])
    return "\n".join([*lines, "", *NOTES.splitlines()])


def _target(scene: dict[str, Any]) -> str:
    text = f"target: log-loss {scene['target']:.4f}"
    if scene["bayes_loss"] is not None:
        text += f" (the best possible model has {scene['bayes_loss']:.4f})"
    return text


def _rows(policies: list[dict[str, Any]]) -> list[str]:
    base = policies[0]
    of = f"x {base['label']}"
    heads = ["", "steps/s", "", of, "steps to target", "", of, "seconds to target", "", of]
    rows = [[*heads, "final loss", "staleness mean", "max"]]
    for each in policies:
        row = [each["label"]]
        row += _cells(each, base, "steps_per_s", 0)
        row += _cells(each, base, "steps_to_target", 0)
        row += _cells(each, base, "seconds_to_target", 2)
        seen = {int(steps): n for steps, n in each["staleness"].items()}
        mean = sum(steps * n for steps, n in seen.items()) / max(sum(seen.values()), 1)
        row += [f"{each['final_loss']['median']:.4f}", f"{mean:.2f}", str(max(seen, default=0))]
        rows.append(row)
    return aligned(rows)


def _cells(each: dict[str, Any], base: dict[str, Any], name: str, digits: int) -> list[str]:
    figure = each[name]
    if figure is None:
        return ["not reached", f"({each['reached']} of {each['repeats']} did)", ""]
    ratio = ""
    if base[name] is not None and base[name]["median"] > 0:
        ratio = f"{figure['median'] / base[name]['median']:.2f}"
    spread = f"({figure['min']:.{digits}f} - {figure['max']:.{digits}f})"
    return [f"{figure['median']:.{digits}f}", spread, ratio]
