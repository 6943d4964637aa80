"""``capctl columns``: fields of packets as a table, as CSV, JSON or Parquet, and as Arrow has them."""
