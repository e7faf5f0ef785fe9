"""The graders, each declared in a module of its own; imports nothing heavy before it is used."""
