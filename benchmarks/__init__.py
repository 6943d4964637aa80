"""Measures capd beside other capture programs; ``scripts/bench`` runs it."""
