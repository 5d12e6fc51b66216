"""Variants of the SAE on the same rows: FVU against L0, dead latents, time.

    python benchmarks/bench_variants.py --output DIR                 # planted rows
    python benchmarks/bench_variants.py --output DIR --np_dir SHARDS # embeddings

Every variant is trained with the same options but its own, each on the same batches, all k in one
pass, and measured by ``evaluate_sae`` on rows that were held out; ``first quarter`` is the FVU with
the first L / 4 latents alone. On planted rows it is also told how well the directions they are made
of were found (``planted_dictionary.py``). Written are ``variants.parquet`` and ``variants.png``.

Embeddings as the demo's:

    python -m esm_sae.sample_fasta --fasta esm_sae/data/proteins.fasta.gz --n 7168 --max_len 256 \\
        --output sample.fasta
    python -m esm_sae.embed_uniref --fasta sample.fasta --model esmc_demo --layer 3 \\
        --pooling residue --residues_per_protein 24 --output SHARDS
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import planted_dictionary
import polars as pl

from esm_sae.figures import add_legend, new_figure, png_bytes
from esm_sae.formats.shards import EmbeddingShards, open_shards
from esm_sae.sae import SAE, TrainOptions, evaluate_sae, load_checkpoint, train_saes
from esm_sae.sae.rows import SplitChoice, read_rows, split_rows

_PLANTED_ROWS, _PLANTED_WIDTH, _PLANTED_DIRECTIONS = 131_072, 256, 512
_MOST_JUDGED = 16_384
_COLOURS = ("#2166ac", "#d6604d", "#1b9e77", "#7570b3", "#8c8c8c")


def main(argv: Sequence[str] | None = None) -> None:
    """Train and measure all variants."""
    options = _parser().parse_args(argv)
    output = Path(options.output)
    planted = None
    if options.np_dir is None:
        planted = planted_dictionary.plant(
            _PLANTED_WIDTH, directions=_PLANTED_DIRECTIONS, seed=options.seed
        )
        if not (output / "rows").is_dir():
            planted_dictionary.write_rows(
                planted, _PLANTED_ROWS, output / "rows", seed=options.seed
            )
    with warnings.catch_warnings():
        # Plain matrices don't tell what they are.
        warnings.simplefilter("ignore", UserWarning)
        shards = open_shards(options.np_dir or output / "rows")
        rows = [row for name in _variants(options) for row in _measured(name, shards, options)]
    for row in rows:
        row.update(_found_again(planted, output / row["folder"], shards, options))
    table = pl.DataFrame(rows).drop("folder")
    table.write_parquet(output / "variants.parquet")
    (output / "variants.png").write_bytes(_plot(table, "planted rows" if planted else "embeddings"))
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, float_precision=4):
        print(table)


def _variants(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return for each variant what it has of its own."""
    latents = options.latent_dim
    known: dict[str, dict[str, Any]] = {
        "TopK": {},
        "BatchTopK": {"activation": "batchtopk"},
        "Matryoshka TopK": {"prefixes": (latents // 16, latents // 4, latents // 2)},
        "JumpReLU": {"activation": "jumprelu"},
        "TopK, k annealed": {"k_start": 4},
    }
    chosen = options.variants or list(known)
    return {name: known[name] for name in chosen}


def _measured(
    name: str, shards: EmbeddingShards, options: argparse.Namespace
) -> list[dict[str, Any]]:
    own = _variants(options)[name]
    base = Path(options.output) / name.lower().replace(" ", "_").replace(",", "")
    common = TrainOptions(
        options.latent_dim,
        min(options.topk),
        batch_size=options.batch_size,
        num_epochs=options.num_epochs,
        learning_rate=options.learning_rate,
        seed=options.seed,
        **{key: value for key, value in vars(options).items() if key in ("bandwidth", "l0_weight")},
    )
    clusters = options.similarity_clusters
    started = time.perf_counter()
    trained = list(
        train_saes(
            shards,
            {k: base / f"k{k}" for k in options.topk},
            replace(common, **own),
            similarity_clusters=clusters,
        )
    )
    seconds = (time.perf_counter() - started) / len(trained)
    rows = []
    for result in trained:
        measured = evaluate_sae(
            result.product.path, shards, base / f"metrics_k{result.k}", similarity_clusters=clusters
        )
        metrics = json.loads((measured.path / "metrics.json").read_text())
        rows.append(
            {
                "variant": name,
                "k": result.k,
                "l0": metrics["l0_mean"],
                "fvu": metrics["fvu"],
                "dead_share": metrics["dead_share"],
                "unfired_share": metrics["unfired_share"],
                "nearest_cosine": metrics["max_decoder_cosine_median"],
                "seconds": None if result.product.unchanged else round(seconds, 1),
                "folder": str(result.product.path.relative_to(options.output)),
            }
        )
    return rows


def _found_again(
    planted: planted_dictionary.Planted | None,
    folder: Path,
    shards: EmbeddingShards,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Return what the first latents explain, and how well planted directions were found."""
    sae = load_checkpoint(folder)
    split = split_rows(shards, SplitChoice(options.similarity_clusters, 0))
    numbers = split.test.evenly_spaced(_MOST_JUDGED)
    rows = read_rows(shards, numbers)
    found = {"fvu_first_quarter": _fvu_of_first(sae, rows, options.latent_dim // 4)}
    if planted is not None:
        values, latents = sae.encode_sparse(rows)
        fired = [chosen[on] for chosen, on in zip(latents, values > 0, strict=True)]
        _, support = planted_dictionary.draw_rows(planted, _PLANTED_ROWS, seed=options.seed)
        true = _of_rows(support, numbers)
        found["cosine"] = planted_dictionary.mean_max_cosine(planted, sae.decoder)
        found["f1"] = planted_dictionary.support_f1(
            true, planted_dictionary.support_of(planted, sae.decoder, fired)
        )
    return found


def _fvu_of_first(sae: SAE, rows: np.ndarray, count: int) -> float:
    activations = sae.encode(rows)
    activations[:, count:] = 0
    missed = np.square(rows - sae.decode(activations)).sum(dtype=np.float64)
    return float(missed / np.square(rows - rows.mean(0)).sum(dtype=np.float64))


def _of_rows(
    support: planted_dictionary.Support, numbers: np.ndarray
) -> planted_dictionary.Support:
    """Return the support of chosen rows, which are numbered anew."""
    row, direction = np.divmod(support.keys, support.directions)
    place = np.full(_PLANTED_ROWS, -1)
    place[numbers] = np.arange(len(numbers))
    kept = place[row] >= 0
    keys = np.sort(place[row[kept]] * support.directions + direction[kept])
    return planted_dictionary.Support(keys, support.directions)


def _plot(table: pl.DataFrame, rows: str) -> bytes:
    figure, axes = new_figure(7.2, 4.4)
    for (name, of_variant), colour in zip(
        table.group_by("variant", maintain_order=True), _COLOURS, strict=False
    ):
        axes.plot(of_variant["l0"], of_variant["fvu"], "o-", color=colour, label=name[0])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="L0: latents that fire on a held-out row, in the mean",
        ylabel="FVU on held-out rows",
        title=f"Variants of the SAE on {rows}",
    )
    ticks = sorted(set(table["k"]))
    axes.set_xticks(ticks, [str(k) for k in ticks])
    least, most = axes.get_ylim()
    shown = [
        f"{digit}e{power}" for power in range(-5, 1) for digit in (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
    ]
    ticks = [tick for tick in map(float, shown) if least <= tick <= most]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    add_legend(axes)
    return png_bytes(figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", required=True, metavar="DIR", help="SAEs, table and plot; gone on with")
    add("--np_dir", metavar="DIR", help="embedding shards; without it planted rows")
    add("--similarity_clusters", help="as of train; 'bundled' for the bundled proteins")
    add("--latent-dim", type=int, default=1024, help="L")
    add("--topk", type=int, nargs="+", default=[16, 32, 64], help="values of k")
    add("--batch-size", type=int, default=256)
    add("--num-epochs", type=int, default=5)
    add("--learning-rate", type=float, default=2e-3)
    add("--bandwidth", type=float, default=TrainOptions(1, 1).bandwidth, help="JumpReLU's")
    add("--l0-weight", type=float, default=TrainOptions(1, 1).l0_weight, help="JumpReLU's")
    add("--variants", nargs="+", help="some of them, by name")
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
