"""What Dagster's UI says of an asset beside its figures: owners, columns, lineage, freshness."""
