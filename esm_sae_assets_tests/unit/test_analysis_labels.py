import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from esm_sae.analysis.concepts.labels import universe_path
from esm_sae.analysis.summary.labels import label_latents
from esm_sae.errors import InputError
from esm_sae.formats import analysis_tables as tables

PROTEINS, LENGTH = 120, 40
LETTERS = "ACDEFGHIKLMNPQRSTVWY"
FAMILIES = ["Kinase", "Globin (Fragment)", "Uncharacterized protein", "Lectin"]
TAXA = ["Homo sapiens", "Mus musculus", "Rattus norvegicus"]
Firing = dict[tuple[int, int], float]


class Run:
    """Made-up proteins, a latent for each rule, and the tables that labels are made from."""

    def __init__(self, folder: Path, rules: list[Callable[["Run", int, int], float]]) -> None:
        self.folder = folder
        generator = np.random.default_rng(1)
        self.texts: list[Any] = [
            "".join(generator.choice(list(LETTERS), LENGTH)) for _ in range(PROTEINS)
        ]
        self.families = [FAMILIES[number % 4] for number in range(PROTEINS)]
        self.taxa = [TAXA[number % 3] for number in range(PROTEINS)]
        self.training = generator.random(PROTEINS) < 0.7
        self.latents = [
            {
                (protein, position): strength
                for protein in range(PROTEINS)
                for position in range(1, LENGTH + 1)
                if (strength := rule(self, protein, position)) > 0
            }
            for rule in rules
        ]
        self.taxonomic: list[tuple[int, str]] = []
        self.annotations: Path | None = None
        self.of_residues = True

    def label(self) -> list[dict[str, Any]]:
        """Write the tables and return the labels of all latents."""
        self._write()
        sequences = pl.read_parquet(self.folder / tables.SEQUENCES)
        arguments = (self.folder, self.folder, sequences, self.training, self.annotations)
        return label_latents(*arguments).to_dicts()

    def annotate(self, rows: Iterable[tuple[str, int, int | None, int | None]], known: Any) -> None:
        """Annotate proteins with concepts; ``known`` are the proteins spoken of."""
        self.annotations = self.folder / "annotations.parquet"
        table = [("uniprot", concept, f"P{p}", start, end) for concept, p, start, end in rows]
        pl.DataFrame(table, schema=tables.ANNOTATION_SCHEMA, orient="row").write_parquet(
            self.annotations
        )
        pl.DataFrame(
            {"source": "uniprot", "sequence_id": [f"P{protein}" for protein in known]}
        ).write_parquet(universe_path(self.annotations))

    def _write(self) -> None:
        (self.folder / tables.BY_ROW).mkdir(exist_ok=True)
        rows = pl.DataFrame(
            [
                (protein * LENGTH + position, protein, position, latent, strength)
                for latent, fires in enumerate(self.latents)
                for (protein, position), strength in fires.items()
            ],
            schema={
                "row": pl.Int64,
                "protein": pl.UInt32,
                "position": pl.Int32,
                "latent": pl.UInt32,
                "activation": pl.Float32,
            },
            orient="row",
        ).sort("row", "latent")
        cut = rows.filter(pl.col("protein") < PROTEINS // 2)
        cut.write_parquet(self.folder / tables.BY_ROW / "00000.parquet")
        rows[len(cut) :].write_parquet(self.folder / tables.BY_ROW / "00001.parquet")
        order = ["latent", "activation", "protein"]
        pairs = rows.group_by("latent", "protein").agg(
            pl.col("activation").max(), pl.col("position").first()
        )
        pairs.sort(order, descending=[False, True, False]).write_parquet(
            self.folder / tables.PROTEINS
        )
        counts = [len({protein for protein, _ in fires}) for fires in self.latents]
        pl.DataFrame(
            {"latent": range(len(counts)), "firing_proteins": counts},
            schema={"latent": pl.UInt32, "firing_proteins": pl.UInt32},
        ).write_parquet(self.folder / tables.LATENTS)
        pl.DataFrame(
            {
                "protein": range(PROTEINS),
                "sequence_id": [f"P{number}" for number in range(PROTEINS)],
                "header": [f"P{n} {family}" for n, family in enumerate(self.families)],
                "taxon": self.taxa,
                "sequence": self.texts if self.of_residues else [None] * PROTEINS,
            },
            schema_overrides={"sequence": pl.String},
        ).write_parquet(self.folder / tables.SEQUENCES)
        taxonomic = {
            "latent": [n for n, _ in self.taxonomic],
            "taxon": [t for _, t in self.taxonomic],
        }
        pl.DataFrame(taxonomic, schema={"latent": pl.UInt32, "taxon": pl.String}).with_columns(
            taxonomic=True
        ).write_parquet(self.folder / tables.TAXONOMY)


def letter(run: Run, protein: int, position: int) -> str:
    return run.texts[protein][position - 1]


def chance(*words: Any) -> float:
    """Return a number from 0 to 1 that looks random and depends on the words only."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def glycine(run: Run, protein: int, position: int) -> float:
    return float(letter(run, protein, position) == "G") * (1 + chance("g", protein, position))


def often_acidic(run: Run, protein: int, position: int) -> float:
    return float(letter(run, protein, position) in "DE" and chance("a", protein, position) < 0.8)


def background(run: Run, protein: int, position: int) -> float:
    """Fire on every residue, so that all of them count."""
    return 1 + chance("b", protein, position)


def test_amino_acids_neighbours_and_places(tmp_path: Path) -> None:
    rules = [
        glycine,
        often_acidic,
        lambda run, p, at: float(at > 1 and letter(run, p, at - 1) in "FWY"),
        lambda run, p, at: float(at <= 5),
        lambda run, p, at: float(at == LENGTH),
        lambda run, p, at: float(run.texts[p][at - 1 : at + 1] in ("KI", "KL")),
        background,
    ]
    found = Run(tmp_path, rules).label()
    assert [(row["label"], row["label_kind"]) for row in found] == [
        ("glycine", "residue"),
        ("aspartate or glutamate", "residue"),
        ("residue after phenylalanine, tryptophan or tyrosine", "residue"),
        ("first 5 residues", "position"),
        ("last residue", "position"),
        ("lysine; before isoleucine or leucine", "residue"),
        (None, "none"),
    ]
    assert {row["label_level"] for row in found[:-1]} == {"residue"}


def test_held_out_figures_equal_counting_residues(tmp_path: Path) -> None:
    run = Run(tmp_path, [glycine, often_acidic, background])
    held_out = {
        (protein, position)
        for protein in range(PROTEINS)
        if not run.training[protein]
        for position in range(1, LENGTH + 1)
    }
    for fires, row, letters in zip(run.latents, run.label(), ("G", "DE"), strict=False):
        bearers = {unit for unit in held_out if letter(run, *unit) in letters}
        firing = {unit for unit, strength in fires.items() if strength > row["label_threshold"]}
        firing &= held_out
        hits = len(bearers & firing)
        assert row["label_held_out"] == len(bearers)
        assert row["label_precision"] == pytest.approx(hits / len(bearers))
        assert row["label_recall"] == pytest.approx(hits / len(firing))
        assert row["label_score"] == pytest.approx(2 * hits / (len(bearers) + len(firing)))
        everywhere = 2 * len(firing) / (len(firing) + len(held_out))
        assert row["label_baseline"] == pytest.approx(everywhere)


def test_held_out_proteins_change_the_score_and_never_the_label(tmp_path: Path) -> None:
    run = Run(tmp_path, [glycine, lambda run, p, _: float(run.families[p] == "Kinase"), background])
    before = run.label()
    for fires in run.latents[:2]:
        for protein, position in list(fires):
            if not run.training[protein]:
                del fires[protein, position]
                fires[protein, LENGTH + 1 - position] = 9.0
    after = run.label()
    for old, new in zip(before[:2], after[:2], strict=True):
        assert new["label"] == old["label"]
    assert after[0]["label_score"] < 0.3 < 0.9 < before[0]["label_score"]


def test_families_are_of_proteins_whose_name_tells_one(tmp_path: Path) -> None:
    def unnamed_too(run: Run, protein: int, _: int) -> float:
        return float(run.families[protein] in ("Globin (Fragment)", "Uncharacterized protein"))

    (row, _) = Run(tmp_path, [unnamed_too, background]).label()
    assert (row["label"], row["label_kind"], row["label_level"]) == ("Globin", "family", "protein")
    # Of a protein without a telling name it is not known whether it is a globin.
    assert row["label_score"] == 1.0


def test_too_few_held_out_bearers_leave_no_score(tmp_path: Path) -> None:
    run = Run(tmp_path, [lambda run, p, _: float(run.families[p] == "Kinase"), background])
    run.training[:] = True
    held_out = [number for number, family in enumerate(run.families) if family == "Kinase"][:4]
    run.training[held_out] = run.training[[1, 5, 9]] = False
    (row, _) = run.label()
    assert (row["label"], row["label_held_out"]) == ("Kinase", 4)
    assert row["label_score"] is row["label_precision"] is row["label_baseline"] is None


def test_a_label_that_can_be_scored_goes_first(tmp_path: Path) -> None:
    run = Run(tmp_path, [lambda run, p, at: float(at == 1 and p < 60), background])
    run.families = ["Kinase" if number < 60 else "Lectin" for number in range(PROTEINS)]
    run.training = np.arange(PROTEINS) < 90
    (row, _) = run.label()
    # The family predicts perfectly, but no kinase is held out.
    assert row["label"] == "first residue"
    assert row["label_score"] == 0.0


def test_strong_activations_are_labelled_where_weak_ones_are_everywhere(tmp_path: Path) -> None:
    def strong_on_histidine(run: Run, protein: int, position: int) -> float:
        weak = 0.5 * chance("w", protein, position)
        return 4.0 if letter(run, protein, position) == "H" else weak

    (row, _) = Run(tmp_path, [strong_on_histidine, background]).label()
    assert (row["label"], row["label_threshold"]) == ("histidine (above 1)", 1.0)
    assert row["label_score"] == 1.0


def test_a_taxon_needs_to_have_passed_the_test(tmp_path: Path) -> None:
    def murine(run: Run, protein: int, _: int) -> float:
        return float(run.taxa[protein] == "Mus musculus")

    run = Run(tmp_path, [murine, murine, background])
    run.taxonomic = [(1, "Mus musculus"), (0, "Homo sapiens")]
    untested, tested, _ = run.label()
    assert (untested["label"], untested["label_kind"]) == (None, "none")
    assert (tested["label"], tested["label_kind"]) == ("Mus musculus", "taxon")


@pytest.mark.parametrize("of_residues", [True, False])
def test_concepts_count_where_something_is_known(tmp_path: Path, of_residues: bool) -> None:
    def in_domain(run: Run, protein: int, position: int) -> float:
        # Of every second protein nothing is annotated, though it has the domain.
        return float(protein % 4 < 2 and 11 <= position <= 30)

    def secreted(run: Run, protein: int, _: int) -> float:
        return float(protein % 6 < 2)

    run = Run(tmp_path, [in_domain, secreted, background])
    known = range(0, PROTEINS, 2)
    run.of_residues = of_residues
    rows = [
        ("Domain: Kringle", p, start, start + 9) for p in known if p % 4 == 0 for start in (11, 21)
    ]
    rows += [("Domain: Kringle", p, 11, 25) for p in known if p % 4 == 0]
    rows += [("Keyword: Secreted", p, None, None) for p in known if p % 6 == 0]
    run.annotate([*rows, ("Rare", 0, 1, 2), ("Elsewhere", 999, 1, 2)], known)
    domain, keyword, _ = run.label()
    assert (domain["label"], domain["label_kind"]) == ("Domain: Kringle", "concept")
    assert domain["label_level"] == ("residue" if of_residues else "protein")
    assert (keyword["label"], keyword["label_level"]) == ("Keyword: Secreted", "protein")
    assert domain["label_score"] == keyword["label_score"] == 1.0
    bearers = [p for p in known if p % 4 == 0 and not run.training[p]]
    assert domain["label_held_out"] == len(bearers) * (20 if of_residues else 1)


def test_annotations_that_are_none_are_named(tmp_path: Path) -> None:
    run = Run(tmp_path, [background])
    run.annotate([("Keyword: Secreted", 0, None, None)], [0])
    assert run.annotations is not None
    run.annotations.write_text("not parquet")
    with pytest.raises(InputError, match=r"annotations\.parquet: not a parquet table"):
        run.label()
    universe_path(run.annotations).unlink()
    run.annotate([], [0])
    universe_path(run.annotations).unlink()
    with pytest.raises(InputError, match=r"annotations\.universe\.parquet: does not exist"):
        run.label()


def test_labels_do_not_depend_on_the_order_of_latents(tmp_path: Path) -> None:
    rules = [glycine, often_acidic, lambda run, p, at: float(at <= 3), background]
    run = Run(tmp_path, rules)
    forward = run.label()
    run.latents.reverse()
    backward = run.label()
    for one, other in zip(forward, reversed(backward), strict=True):
        assert {**one, "latent": 0} == {**other, "latent": 0}


def test_silent_latents_and_unknown_sequences(tmp_path: Path) -> None:
    run = Run(tmp_path, [glycine, lambda *_: 0.0, background])
    run.texts = [text if number % 3 else None for number, text in enumerate(run.texts)]
    labelled, silent, _ = run.label()
    assert labelled["label"] == "glycine"
    assert silent["label_kind"] == "none"
    held_out = [text for text, known in zip(run.texts, run.training, strict=True) if not known]
    assert labelled["label_held_out"] == sum(text.count("G") for text in held_out if text)
    assert labelled["label_score"] == 1.0


def test_noise_has_no_label(tmp_path: Path) -> None:
    rules = [lambda run, p, at, n=n: float(chance(n, p, at) < 0.02 * (n + 1)) for n in range(12)]
    assert {row["label_kind"] for row in Run(tmp_path, [*rules, background]).label()} == {"none"}
