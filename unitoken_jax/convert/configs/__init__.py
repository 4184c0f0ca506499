"""Published configurations ↔ ours: `config.json`, `params.json`, `args`.

Fields that say how to compute rather than what (attention backend, rematerialisation,
type) keep our defaults. What our network cannot do is refused, not dropped.
"""
