"""Files of packets: ``capctl files``, ``capctl extract``, ``capctl merge`` and ``capctl cut``."""
