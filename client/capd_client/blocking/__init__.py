"""Sessions, packet loops, statistics, interfaces and questions, for programs that block."""
