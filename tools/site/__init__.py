"""What the site has that docs/ has not: pages made from the classes, the examples and the command line."""
