from support.wandb_client import clean, server

__all__ = ["clean", "server"]
