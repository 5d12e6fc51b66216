"""Writing the page of one's own proteins."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from esm_sae import storage
from esm_sae.errors import InputError
from esm_sae.formats.activation_names import activation_of
from esm_sae.formats.checkpoint import SAEConfig
from esm_sae.formats.manifest import (
    Manifest,
    Product,
    fingerprint_of,
    identity_of,
    manifest_beside,
    produce_files,
    read_manifest,
)
from esm_sae.report.facts import Fact, provenance
from esm_sae.report.page import page_assets, render_page
from esm_sae.report.protein_payload import LATENTS_SHOWN, protein_payload, read_candidates

_ALGORITHM = "protein-report-3"
_TEMPLATE = "protein_report.html.j2"
_FILES = (_TEMPLATE, "protein_report.css", "browse.js", "protein_report.js")
_CANDIDATES_SHOWN = 100


def write_protein_report(
    output_html: storage.PathLike,
    *,
    described: storage.PathLike,
    activations: storage.PathLike,
    latent_report: storage.PathLike | None = None,
    title: str | None = None,
) -> Product:
    """Write proteins with the latents that fire on them as one HTML file without network or server.

    Memory is bounded by the table of proteins and what the page shows, of 500 proteins at most.

    Args:
        output_html: the page; its manifest comes beside it.
        described: folder of ``describe_proteins``.
        activations: folder of ``compute_activations`` that it was made from.
        latent_report: the page of ``write_report`` on the same latents, to be linked relative to
            this one.
        title: heading of the page; by default the numbers of proteins and latents.

    Raises:
        InputError: an input is missing or incomplete, or the tables are of other activations.
    """
    output, folder, encoded = Path(output_html), Path(described), Path(activations)
    tables, source = _manifest_of(folder), _manifest_of(encoded)
    if tables.determinants.get("activations") != source.data_version:
        raise InputError(f"{folder}: describes other activations than {encoded}; describe these")
    config = SAEConfig(**source.determinants["config"])
    counts = tables.summary
    heading = title or f"{counts['proteins']:,} proteins, {config.latent_dim:,} latents"
    link = None if latent_report is None else _relative(Path(latent_report), output)
    assets = page_assets(*_FILES)
    determinants = {
        "described": identity_of(folder),
        "activations": identity_of(encoded),
        "config": source.determinants["config"],
        "latent_report": link,
        "title": heading,
        "page": fingerprint_of("page", assets),
        "algorithm": _ALGORITHM,
    }

    def build(temporaries: list[Path]) -> dict[str, Any]:
        data = protein_payload(folder, encoded)
        candidates = read_candidates(folder)
        shown = len(data["proteins"]["id"])
        page = render_page(
            assets,
            _TEMPLATE,
            data | {"report": link},
            encoder_note=config.encoder_note,
            title=heading,
            config=config,
            activation=activation_of(config),
            counts=counts,
            headline=_headline(config, counts),
            shown=shown,
            latents_shown=LATENTS_SHOWN,
            sought=None if candidates is None else counts["concepts_sought"],
            not_looked_up=_not_looked_up(counts),
            candidates_listed=min(counts.get("candidates", 0), _CANDIDATES_SHOWN),
            labels=counts["firing_latents_with_label_score"] > 0,
            link=link,
            residues=config.pooling == "residue",
            provenance=provenance(config),
        )
        temporaries[0].write_text(page, encoding="utf-8")
        return {"proteins": counts["proteins"], "proteins_shown": shown}

    return produce_files(
        [output],
        manifest=manifest_beside(output),
        kind="protein_report",
        determinants=determinants,
        build=build,
    )


def _manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder}: incomplete, it has no manifest; make it again")
    return manifest


def _relative(page: Path, output: Path) -> str:
    """Return the address of a page as seen from another in the same tree of folders."""
    return quote(Path(os.path.relpath(page, output.parent)).as_posix())


def _not_looked_up(counts: dict[str, Any]) -> str:
    """Return the sentence, with a space before it, on what no UniProt export could tell."""
    if not counts.get("not_looked_up"):
        return ""
    return (
        f" Left out: {counts['not_looked_up']:,} for concepts of UniProt, on "
        f"{counts['proteins_not_looked_up']:,} proteins that were not looked up, since no UniProt "
        "export that has them was given."
    )


def _headline(config: SAEConfig, counts: dict[str, Any]) -> list[Fact]:
    facts = [
        Fact("proteins", f"{counts['proteins']:,}", "of your file"),
        Fact("latents that fire", f"{counts['firing_latents']:,}", f"of {config.latent_dim:,}"),
    ]
    if counts["firing_latents_with_label_score"]:
        facts.append(
            Fact(
                "with a scored name",
                f"{counts['firing_latents_with_label_score']:,}",
                "a name that was tested on held-out proteins",
            )
        )
    if "candidates" in counts:
        facts.append(
            Fact(
                "candidates",
                f"{counts['candidates']:,}",
                f"for {counts['concepts_sought']:,} concepts, on "
                f"{counts['candidate_proteins']:,} proteins",
            )
        )
    return facts
