"""Usage: keys, models, channels, prices, usage events, rating, authorization and settlement."""
