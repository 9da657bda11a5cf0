"""What a job says about itself while it runs: its metrics.jsonl always, Weights & Biases where the recipe asks for it.

Below the stages and beside nothing: it knows the recipe's `WandB` section and `files`, and no stage, model or engine.
"""
