"""What clients have beside captures, each with a process of its own: interfaces to send on, devices of modules."""
