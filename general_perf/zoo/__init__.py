"""The task zoo: cards, and how a card becomes a model with inputs."""
