"""Text to tokens to activations to batches (Ray Data): corpus, tokens, harvest, store, order, feed."""
