"""What the parts share: FASTA, shards, checkpoints, cluster JSON and manifests."""
