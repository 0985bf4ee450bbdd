"""The training loop of all variants. Independent of the store, of files and of Ray."""

from catdog.config.extensions import register_loss, register_optimizer

__all__ = ["register_loss", "register_optimizer"]
