"""What several tests need: network namespaces of their own, and traffic in them."""
