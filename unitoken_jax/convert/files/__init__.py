"""Weight files: safetensors and PyTorch's, read lazily and written in a stream."""
