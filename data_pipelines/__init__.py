"""From raw files to packed batches; no model and no device computation here."""

from unitoken_jax.commands import refuse_others

refuse_others()
