"""Capture files as they lie there: mapped, compressed, through pipes, or in formats that another program knows."""
