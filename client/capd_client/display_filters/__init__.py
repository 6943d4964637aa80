"""Display filters for programs: Wireshark's language, and expressions of Python that are filters."""
