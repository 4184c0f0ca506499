"""Test settings: eight CPU devices, strict dtype promotion, no network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["JAX_PLATFORMS"] = "cpu"
# Tiny programs are compiled far more often than they are run.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    + os.environ.get("XLA_FLAGS", "")
)

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_threefry_partitionable", True)
