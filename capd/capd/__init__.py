"""The capd daemon: captures packets for programs that have no privilege to."""
