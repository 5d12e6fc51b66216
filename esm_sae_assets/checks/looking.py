"""How a check looks at outputs and shows what it found."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg

from esm_sae.errors import InputError, one_line
from esm_sae.formats.manifest import Product
from esm_sae.formats.verification import product_at


@dataclass(frozen=True)
class Check:
    """A question that is asked of an output.

    Attributes:
        name: of the check, which says what holds.
        holds: the same at length, for the UI.
        warns: whether the output can be used though it does not pass: it is sound, but not good.
    """

    name: str
    holds: str
    warns: bool = False


class Found(NamedTuple):
    """What a look found.

    Attributes:
        figures: by name.
        complaint: what is wrong and what to do; empty where the output passes.
    """

    figures: Mapping[str, Any]
    complaint: str = ""


Look = Callable[[], NamedTuple]
LookAt = Callable[[Product], NamedTuple]
Outputs = Mapping[str, Callable[[], Product | Path]]


def specs_of(asset: str, checks: Sequence[Check]) -> list[dg.AssetCheckSpec]:
    """Return the specs of an asset's checks."""
    return [dg.AssetCheckSpec(each.name, asset=asset, description=each.holds) for each in checks]


def look(check: Check, at: Look, **which: Any) -> dg.AssetCheckResult:
    """Look at an output as it is on the disk, and show its figures or what is wrong with it.

    Args:
        check: what is asked.
        at: returns figures, or what was found; an InputError says what is wrong.
        which: says which output it is, where there are several.
    """
    found = _found(at)
    return _result(check, found.complaint, which | dict(found.figures))


def at_each(keys: Iterable[Any], place: Callable[[Any], Product | Path]) -> Outputs:
    """Return where each of several outputs is, such as those of every k.

    It is asked for when it is looked at: on object storage it is brought then.

    Args:
        keys: of the outputs.
        place: returns an output, or its folder or file, of a key.
    """
    return {str(key): functools.partial(place, key) for key in keys}


def look_at_each(check: Check, at: LookAt, outputs: Outputs, *, of: str) -> dg.AssetCheckResult:
    """Look at every output of several that is in place; the check passes if each does.

    Args:
        check: what is asked.
        at: as in ``look``, of an output.
        outputs: of ``at_each``.
        of: what a key is, such as ``"k"``.
    """
    looked = {key: _found(functools.partial(_of, at, output)) for key, output in outputs.items()}
    found = {key: one for key, one in looked.items() if one != _NOTHING}
    complaints = [f"{of} = {key}: {one.complaint}" for key, one in found.items() if one.complaint]
    figures = _lines(found, of) if check.warns else _table(found, of)
    return _result(
        check, "; ".join(complaints), {"looked_at": f"{of} = {', '.join(found)}", **figures}
    )


_NOTHING = Found({})


def _of(at: LookAt, output: Callable[[], Product | Path]) -> NamedTuple:
    place = output()
    product = product_at(place) if isinstance(place, Path) else place
    return _NOTHING if product is None else at(product)


def _found(at: Look) -> Found:
    try:
        found = at()
    except InputError as error:
        return Found({}, str(error))
    # The output is made and its step must end well, whatever reading a damaged one leads to.
    except Exception as error:
        return Found({}, f"cannot be looked at ({type(error).__name__}: {one_line(str(error))})")
    return found if isinstance(found, Found) else Found(found._asdict())


def _result(check: Check, complaint: str, figures: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=not complaint,
        severity=dg.AssetCheckSeverity.WARN if check.warns else dg.AssetCheckSeverity.ERROR,
        description=complaint or None,
        metadata={name: _value(value) for name, value in figures.items()},
    )


def _lines(found: Mapping[str, Found], of: str) -> dict[str, Any]:
    """Show each figure on a line of its own."""
    return {
        f"{figure} at {of} = {name}": value
        for name, one in found.items()
        for figure, value in one.figures.items()
    }


def _table(found: Mapping[str, Found], of: str) -> dict[str, Any]:
    """Show the figures of each partition as a row."""
    names = dict.fromkeys(name for one in found.values() for name in one.figures)
    columns = [of, "passed", *names]
    records = [
        dg.TableRecord(
            {of: partition, "passed": str(not one.complaint)}
            | {name: str(_value(one.figures.get(name, "-"))) for name in names}
        )
        for partition, one in found.items()
    ]
    schema = dg.TableSchema(columns=[dg.TableColumn(name) for name in columns])
    return {"figures": dg.MetadataValue.table(records, schema)}


def _value(value: Any) -> Any:
    if value is None:
        return "none"
    return float(f"{value:.6g}") if isinstance(value, float) else value
