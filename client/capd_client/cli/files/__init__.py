"""Files of packets: ``capctl files``, ``capctl extract`` and ``capctl merge``."""
