"""Text generation behind one small interface."""
