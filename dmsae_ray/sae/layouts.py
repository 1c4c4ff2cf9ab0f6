"""Names of the files of an SAE, format by format. Nothing here needs torch."""

CONFIG, WEIGHTS = "config.json", "sae.safetensors"
PEER_WEIGHTS = "ae.pt"
"""Of dictionary_learning, beside a config.json of its own."""
SAELENS_CONFIG, SAELENS_WEIGHTS, SAELENS_RUNNER = "cfg.json", "sae_weights.safetensors", "runner_cfg.json"

SAE_FILES = ((CONFIG, WEIGHTS, PEER_WEIGHTS), (SAELENS_CONFIG, SAELENS_WEIGHTS, SAELENS_RUNNER))
"""Files of an SAE of ours or of dictionary_learning, or of SAELens's. The first of each says which it is."""
