"""Text to ids and back, by the published tokenizers' files."""
