"""From the blocks of a packet ring to file records in the order of their timestamps."""
