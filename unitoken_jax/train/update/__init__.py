"""One step: gradients, optimizer, guard, moving average, discriminator."""
