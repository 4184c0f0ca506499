"""From raw files to packed batches; no model and no device computation here."""
