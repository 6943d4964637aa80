"""The endurance attack: hostile accounts at random, while others' captures must not notice. ``scripts/hostile``."""
