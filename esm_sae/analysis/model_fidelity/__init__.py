"""What a language model loses when an SAE's reconstruction takes the place of its states."""
