"""What the command line runs, a file a command; `cli` reads the arguments and imports what they ask for."""
