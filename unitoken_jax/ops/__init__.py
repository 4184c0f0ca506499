"""Pure functions of arrays: the mathematics, with no Flax and no state."""
