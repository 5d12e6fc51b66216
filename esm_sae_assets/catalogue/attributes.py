"""What Dagster's catalogue says of an asset beside its definition: owners, code, freshness."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg

from esm_sae import storage
from esm_sae_assets.assets.clusters import SPECIES_LIST, TAXONOMY
from esm_sae_assets.settings import LARGE_SAMPLE, SMALL_SAMPLE, Settings

_Asset = dg.AssetsDefinition | dg.AssetSpec

_CHECKOUT = Path(__file__).parents[2]

_CODE_KEY = "dagster/code_references"

# Their age is that of all else, which follows them.
_DATED = {
    *("uniref50_fasta", LARGE_SAMPLE, SMALL_SAMPLE),
    *("feature_report", "embedding_cluster_report"),
}


def catalogued(assets: Sequence[_Asset], settings: Settings) -> list[_Asset]:
    """Give assets their owners, tags, the place of their code, and how old they may become."""
    policy = _freshness(settings)
    downloaded_from = {
        "uniref50_fasta": settings.source,
        TAXONOMY: settings.clusters.taxonomy,
        SPECIES_LIST: settings.clusters.species_list,
    }

    def described(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if policy is not None and name in _DATED:
            spec = dg.apply_freshness_policy(spec, policy)
        url = downloaded_from.get(name, "")
        return spec.replace_attributes(
            owners=list(settings.catalogue.owners),
            tags={**spec.tags, "esm_sae/profile": settings.profile},
            metadata={
                **_with_code_at(settings.catalogue.code_url, spec.metadata),
                **({"dagster/uri": url} if storage.is_http_url(url) else {}),
            },
        )

    located = cast("Sequence[_Asset]", dg.with_source_code_references(assets))
    return list(dg.map_asset_specs(described, located))


def _freshness(settings: Settings) -> dg.FreshnessPolicy | None:
    days = settings.catalogue.overdue_days
    if not days:
        return None
    return dg.FreshnessPolicy.time_window(
        warn_window=timedelta(days=days), fail_window=timedelta(days=1.5 * days)
    )


def _with_code_at(url: str, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Point references to local files at a repository on the web, where one is named."""
    found = metadata.get(_CODE_KEY)
    if not url or found is None:
        return metadata
    references = [
        dg.UrlCodeReference(
            url=f"{url.rstrip('/')}/{Path(local.file_path).relative_to(_CHECKOUT).as_posix()}"
            f"#L{local.line_number}"
        )
        for local in found.code_references
    ]
    linked = dg.CodeReferencesMetadataValue(code_references=[*references])
    return {**metadata, _CODE_KEY: linked}
