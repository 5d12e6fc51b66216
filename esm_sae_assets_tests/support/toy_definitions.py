"""The code location with toy steps, of the settings in the environment."""

from esm_sae_assets.settings import load_settings
from toy_graph import toy_defs

defs = toy_defs(load_settings())
