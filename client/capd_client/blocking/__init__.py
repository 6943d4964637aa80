"""Sessions, statistics, interfaces and questions, for programs that block."""
