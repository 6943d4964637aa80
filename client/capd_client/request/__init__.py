"""What is wanted: wirepy's arguments as a request, checked before anything is sent."""
